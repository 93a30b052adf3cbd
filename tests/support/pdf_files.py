"""Writes small PDFs by hand: each page says its number in large letters."""

from __future__ import annotations

from collections.abc import Sequence

A4 = (595, 842)  # points


def pdf(
    pages: int = 1,
    size: tuple[float, float] = A4,
    drawing: str = "BT /F1 {height} Tf 40 {middle} Td ({number}) Tj ET",
    trailer: str = "",
    more: Sequence[str] = (),
) -> bytes:
    """A PDF of `pages` pages of `size` points; `more` are further objects, from number 4 on."""
    width, height = size
    first = 4 + len(more)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *more,
    ]
    fonts = "<< /Font << /F1 3 0 R >> /XObject << /X 4 0 R >> >>"
    for i in range(pages):
        content = drawing.format(number=i + 1, height=height // 2, middle=height // 3)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] "
            f"/Resources {fonts} /Contents {first + 2 * i + 1} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    written, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\n"
    return written + f"{end}startxref\n{len(written)}\n%%EOF\n".encode()


# A password that nobody has: the key cannot be checked with an empty one.
PROTECTED = pdf(
    trailer=f"/Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O <{'41' * 32}> "
    f"/U <{'42' * 32}> >> /ID [<{'43' * 16}> <{'43' * 16}>]"
)


def endless(depth: int = 12) -> bytes:
    """A page that draws a form that draws another one ten times, and so on: 10^depth drawings."""
    forms = []
    for i in range(depth):
        inner = "/X Do " * 10 if i + 1 < depth else "0 0 500 500 re f"
        forms.append(
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 600 900] /Resources << /XObject "
            f"<< /X {5 + i} 0 R >> >> /Length {len(inner)} >>\nstream\n{inner}\nendstream"
        )
    return pdf(drawing="/X Do", more=forms)
