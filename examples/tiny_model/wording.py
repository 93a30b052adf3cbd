"""The names of things and the sentences of answers, in English and Chinese.

Knows how a fact is said. Knows nothing of drawing, of how questions are put, or of tokens.
"""

from __future__ import annotations

import json

from clips import Clip, Event
from scene import Scene, Shape

NUMBERS = ("no", "one", "two", "three", "four", "five")
PLACES = {
    (0, 0): ("at the top left", "左上"),
    (0, 1): ("at the top", "上方"),
    (0, 2): ("at the top right", "右上"),
    (1, 0): ("at the left", "左侧"),
    (1, 1): ("in the center", "中间"),
    (1, 2): ("at the right", "右侧"),
    (2, 0): ("at the bottom left", "左下"),
    (2, 1): ("at the bottom", "下方"),
    (2, 2): ("at the bottom right", "右下"),
}
ZH = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
    "diamond": "菱形",
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "black": "黑色",
    "white": "白色",
}
ABOUT_ME = {
    "en": "I am a small demo model. I know simple shapes, printed text, charts, invoices and app "
    "screens.",
    "zh": "我是一个小型演示模型，只认识简单图形、印刷文字、图表、发票和应用界面。",
}
UNREADABLE = {
    "en": "I cannot read this: the print is too small or blurred.",
    "zh": "看不清：文字太小或太模糊。",
}
NO_PICTURE = {"en": "Please add a picture first.", "zh": "请先添加一张图片。"}


def name(shape: Shape, lang: str) -> str:
    """red circle / 红色圆形"""
    if lang == "zh":
        return ZH[shape.colour] + ZH[shape.kind]
    return f"{shape.colour} {shape.kind}"


def article(noun: str) -> str:
    """With "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def place(cell: tuple[int, int], lang: str) -> str:
    """at the top left / 左上"""
    return PLACES[cell][lang == "zh"]


def listed(parts: list[str], lang: str) -> str:
    """a, b and c / a、b和c"""
    if len(parts) < 2:
        return "".join(parts)
    if lang == "zh":
        return "、".join(parts[:-1]) + "和" + parts[-1]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def shape_at(shape: Shape, lang: str) -> str:
    """a red circle at the top left / 左上的红色圆形"""
    if lang == "zh":
        return f"{place(shape.cell, lang)}的{name(shape, lang)}"
    return f"{article(name(shape, lang))} {place(shape.cell, lang)}"


def describe_scene(scene: Scene, lang: str) -> str:
    """There are two shapes: ..."""
    parts = [shape_at(shape, lang) for shape in scene.shapes]
    count = len(parts)
    if not count:
        return "图中没有图形。" if lang == "zh" else "There are no shapes."
    if lang == "zh":
        return f"图中有{count}个图形：{listed(parts, lang)}。"
    if count == 1:
        return f"There is one shape: {parts[0]}."
    return f"There are {NUMBERS[count]} shapes: {listed(parts, lang)}."


def count_of(count: int, noun: str, lang: str) -> str:
    """There are 2 circles. / 有2个圆形。"""
    if lang == "zh":
        return f"有{count}个{noun}。"
    return f"There is 1 {noun}." if count == 1 else f"There are {count} {noun}s."


def boxes_json(found: list[tuple[list[int], str]]) -> str:
    """[{"bbox_2d": [x1, y1, x2, y2], "label": "red circle"}]"""
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in found])


def points_json(found: list[tuple[list[int], str]]) -> str:
    """The same with the middle of each box as point_2d."""
    return json.dumps(
        [
            {"point_2d": [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2], "label": label}
            for box, label in found
        ]
    )


def event_said(event: Event, lang: str) -> str:
    """A blue square appears at the top. / 蓝色正方形出现在上方。"""
    what = name(event.shape, lang)
    if event.kind == "appear":
        where = place(event.shape.cell, lang)
        if lang == "zh":
            return f"{what}出现在{where}。"
        return f"{article(what).capitalize()} appears {where}."
    if event.kind == "disappear":
        return f"{what}消失了。" if lang == "zh" else f"The {what} disappears."
    if event.kind == "move":
        where = place(event.after.cell, lang)
        if lang == "zh":
            return f"{what}移到{where}。"
        # "moves to the center", not "moves to in the center"
        return f"The {what} moves to {where.split(' ', 1)[1]}."
    if lang == "zh":
        return f"{what}变成{ZH[event.after.colour]}。"
    return f"The {what} turns {event.after.colour}."


def events_said(events: tuple[Event, ...], lang: str) -> str:
    """All of them, or that nothing changes."""
    if not events:
        return "没有变化。" if lang == "zh" else "Nothing changes."
    said = [event_said(event, lang) for event in sorted(events, key=lambda e: e.shape.cell)]
    return ("" if lang == "zh" else " ").join(said)


def scene_said(scene: Scene, lang: str) -> str:
    """A red circle is at the left and a blue square is at the top."""
    if not scene.shapes:
        return "什么都没有。" if lang == "zh" else "There is nothing."
    if lang == "zh":
        parts = [f"{name(s, lang)}在{place(s.cell, lang)}" for s in scene.shapes]
        return "，".join(parts) + "。"
    parts = [f"{article(name(s, lang))} is {place(s.cell, lang)}" for s in scene.shapes]
    said = listed(parts, lang)
    return said[0].upper() + said[1:] + "."


def at_time_said(clip: Clip, index: int, lang: str) -> str:
    """At 4.0 s there is a red circle at the left."""
    time_s, shapes = clip.times_s[index], clip.scenes[index].shapes
    parts = [shape_at(shape, lang) for shape in shapes]
    if lang == "zh":
        return f"{time_s} 秒时有{listed(parts, lang)}。" if parts else f"{time_s} 秒时什么都没有。"
    return f"At {time_s} s there is {listed(parts, lang) or 'nothing'}."


def timeline(clip: Clip, lang: str) -> str:
    """One line per moment at which something is new."""
    stamp = "{} 秒：{}" if lang == "zh" else "{} s: {}"
    lines = [stamp.format(clip.times_s[0], scene_said(clip.scenes[0], lang))]
    for time_s, events in zip(clip.times_s[1:], clip.events[1:], strict=True):
        if events:
            lines.append(stamp.format(time_s, events_said(events, lang)))
    return "\n".join(lines)
