"""Twenty pictures by a browser: ten by a script on a canvas, ten of SVG. Own layouts, own words."""

import shutil

from asked import PICTURES, record
from playwright.sync_api import sync_playwright

BARS = """<canvas width=400 height=260></canvas><script>{
const c=document.querySelector('canvas').getContext('2d');
c.fillStyle='%s';c.fillRect(0,0,400,260);c.font='19px %s';c.textAlign='center';
%s.forEach(([n,v],i)=>{c.fillStyle=`hsl(${i*70} 60%% 45%%)`;c.fillRect(30+i*90,215-v*1.8,60,v*1.8);
c.fillStyle='%s';c.fillText(n,60+i*90,240);c.fillText(v,60+i*90,207-v*1.8);})}</script>"""
PRINT = """<canvas width=400 height=180></canvas><script>{
const c=document.querySelector('canvas').getContext('2d');c.fillStyle='%s';c.fillRect(0,0,400,180);
c.fillStyle='%s';c.font='%s';%s.forEach((t,i)=>c.fillText(t,22,58+i*52))}</script>"""
SVG = '<svg width=320 height=240 style="display:block;background:%s">%s</svg>'
ROWS: list[tuple[str, str, str, str]] = []


def made():
    """(kind, markup, row, question, answer)"""
    for back, font, bars, ink, best, name in (
        ("#fff", "sans-serif", '[["Rye",35],["Oat",80],["Corn",55]]', "#000", "highest", "Oat"),
        ("#f4efe6", "serif", '[["Ann",90],["Bob",30],["Cy",60]]', "#321", "lowest", "Bob"),
        ("#16181d", "sans-serif", '[["Q1",20],["Q2",50],["Q3",85]]', "#eee", "highest", "Q3"),
        ("#fff", "monospace", '[["Red",70],["Gray",25]]', "#222", "lowest", "Gray"),
        ("#eef", "serif", '[["2020",88],["2021",62],["2022",31]]', "#113", "highest", "2020"),
    ):
        asked = f"Which bar is the {best}?"
        yield "canvas", BARS % (back, font, bars, ink), "chart", asked, f"{name} is the {best}."
    for back, ink, font, lines in (
        ("#fff", "#111", "30px serif", ["Bakery", "Open till 6 pm"]),
        ("#123", "#fed", "bold 26px sans-serif", ["Exit 42", "Keep left"]),
        ("#fec", "#420", "24px monospace", ["Seat 17C", "Row 9"]),
        ("#fff", "#05a", "22px sans-serif", ["Meeting at 14:30"]),
        ("#dde", "#222", "italic 32px serif", ["Best wishes"]),
    ):
        shown = PRINT % (back, ink, font, lines)
        yield "canvas", shown, "text", "Extract all the text.", "\n".join(lines)
    red = '<circle cx=60 cy=120 r=34 fill="#d22" stroke="#400" stroke-width=3 />'
    blue = '<rect x=230 y=88 width=64 height=64 fill="#24c" />'
    green = '<polygon points="160,18 120,86 200,86" fill="#283" />'
    purple = '<polygon points="160,165 195,200 160,235 125,200" fill="#729" />'
    yield (
        "svg",
        SVG % ("#fff", red + blue),
        "counting",
        "How many shapes are there?",
        "There are 2 shapes.",
    )
    yield (
        "svg",
        SVG % ("#eee", red + blue + green),
        "counting",
        "How many shapes are there?",
        "There are 3 shapes.",
    )
    yield (
        "svg",
        SVG % ("#fff", green),
        "naming",
        "What is at the top?",
        "A green triangle is at the top.",
    )
    yield (
        "svg",
        SVG % ("#ffd", purple),
        "naming",
        "What colour is the diamond?",
        "The diamond is purple.",
    )
    yield (
        "svg",
        SVG % ("#dfe", blue),
        "locate",
        "Locate the blue square.",
        '[{"bbox_2d": [719, 367, 919, 633], "label": "blue square"}]',
    )
    yield (
        "svg",
        SVG % ("#fff", red),
        "locate",
        "Locate the red circle.",
        '[{"bbox_2d": [77, 352, 298, 648], "label": "red circle"}]',
    )
    yield (
        "svg",
        SVG % ("#eef", red + purple),
        "naming",
        "What colour is the circle?",
        "The circle is red.",
    )
    yield (
        "svg",
        SVG % ("#fff", red + blue + green + purple),
        "counting",
        "Count the shapes.",
        "There are 4 shapes.",
    )
    text = '<text x=20 y=%d font-size=%d font-family="%s" fill="#222">%s</text>'
    yield (
        "svg",
        SVG % ("#fff", text % (120, 34, "serif", "Hill Road 8")),
        "text",
        "Read the text.",
        "Hill Road 8",
    )
    yield (
        "svg",
        SVG % ("#efe", text % (100, 28, "sans-serif", "Fragile")),
        "text",
        "Read the text.",
        "Fragile",
    )


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    tab = browser.new_page()
    for kind, markup, row, question, answer in made():
        name = f"{kind}-{len(ROWS)}.png"
        tab.set_content(f"<style>body{{margin:0}}</style>{markup}")
        tab.locator("canvas, svg").screenshot(path=PICTURES / name)
        ROWS.append((name, row, question, answer))
    browser.close()
record("canvas_script", ROWS)
