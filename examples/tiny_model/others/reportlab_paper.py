"""Ten papers by ReportLab, rastered by PDFium: invoices, notes and bars in the PDF base fonts."""

import io
import json

import pypdfium2
from asked import PICTURES, record
from reportlab.pdfgen.canvas import Canvas

ROWS = []


def keep(draw, width: int, height: int, row: str, question: str, answer: str) -> None:
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=(width, height))
    draw(canvas)
    canvas.save()
    name = f"reportlab-{len(ROWS)}.png"
    page = pypdfium2.PdfDocument(file.getvalue())[0]
    page.render(scale=1).to_pil().convert("RGB").save(PICTURES / name)
    ROWS.append((name, row, question, answer))


def invoice(font: str, px: int, values: dict[str, str]):
    def draw(canvas: Canvas) -> None:
        canvas.setFont("Helvetica-Bold", px + 6)
        canvas.drawString(20, 250, "Invoice")
        canvas.line(20, 238, 360, 238)
        canvas.setFont(font, px)
        for i, (label, value) in enumerate(values.items()):
            canvas.drawString(20, 200 - 42 * i, label)
            canvas.drawRightString(360, 200 - 42 * i, value)

    return draw


KEYS = ("invoice_no", "date", "customer", "total")
LABELS = ("Invoice No", "Date", "Customer", "Total")
for font, px, values in (
    ("Helvetica", 20, ("INV-2081", "2026-03-14", "Maria Keller", "$418.20")),
    ("Times-Roman", 22, ("A-7715", "02.11.2025", "Tom Brandt", "€93.75")),
    ("Courier", 18, ("2026-044", "2026-01-30", "Ines Duarte", "$1250.00")),
    ("Helvetica", 16, ("RX-301", "05/06/2024", "Olaf Lind", "€77.10")),
):
    answer = json.dumps(dict(zip(KEYS, values, strict=True)), ensure_ascii=False)
    drawn = invoice(font, px, dict(zip(LABELS, values, strict=True)))
    keep(drawn, 380, 290, "invoice", "Extract the invoice fields as JSON.", answer)

for font, px, lines in (
    ("Times-Bold", 28, ("Quiet please", "Library 2nd floor")),
    ("Helvetica", 24, ("Pump 3 closed",)),
    ("Courier-Bold", 22, ("Order 55182", "Paid in full")),
):

    def note(canvas: Canvas, font=font, px=px, lines=lines) -> None:
        canvas.setFillGray(0.15)
        canvas.setFont(font, px)
        for i, text in enumerate(lines):
            canvas.drawString(24, 120 - 44 * i, text)

    keep(note, 320, 170, "text", "Extract all the text.", "\n".join(lines))

for labels, values, best in (
    (("Jan", "Feb", "Mar"), (30, 80, 55), "highest"),
    (("North", "South", "East"), (90, 35, 60), "lowest"),
    (("2021", "2022", "2023", "2024"), (20, 40, 60, 95), "highest"),
):

    def bars(canvas: Canvas, labels=labels, values=values) -> None:
        canvas.setFont("Helvetica", 18)
        for i, (label, value) in enumerate(zip(labels, values, strict=True)):
            canvas.setFillColorRGB(0.2, 0.5, 0.6)
            canvas.rect(30 + 85 * i, 40, 50, value * 1.6, fill=1)
            canvas.setFillGray(0)
            canvas.drawCentredString(55 + 85 * i, 18, label)

    pick = max if best == "highest" else min
    name = labels[values.index(pick(values))]
    keep(bars, 380, 220, "chart", f"Which bar is the {best}?", f"{name} is the {best}.")
record("reportlab_paper", ROWS)
