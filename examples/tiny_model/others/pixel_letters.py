"""Ten pictures by hand: letters drawn as rows of characters, blown up; a few bars of the same."""

# ruff: noqa: E501
import numpy as np
from asked import PICTURES, record
from PIL import Image

GLYPHS = {
    "A": "01110 10001 10001 11111 10001 10001 10001", "B": "11110 10001 11110 10001 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111", "E": "11111 10000 11110 10000 10000 10000 11111",
    "H": "10001 10001 11111 10001 10001 10001 10001", "I": "11111 00100 00100 00100 00100 00100 11111",
    "L": "10000 10000 10000 10000 10000 10000 11111", "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110", "P": "11110 10001 10001 11110 10000 10000 10000",
    "T": "11111 00100 00100 00100 00100 00100 00100", "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111", "7": "11111 00001 00010 00100 01000 01000 01000",
}  # fmt: skip
ROWS = []


def stamp(board: np.ndarray, text: str, x: int, y: int) -> None:
    for char in text:
        for dy, bits in enumerate(GLYPHS[char].split()):
            board[y + dy, x : x + 5] = [bit == "1" for bit in bits]
        x += 6


def keep(board: np.ndarray, scale: int, ink: int, row: str, question: str, answer: str) -> None:
    name = f"pixels-{len(ROWS)}.png"
    pixels = np.where(board, ink, 255 - ink).astype(np.uint8)
    image = Image.fromarray(pixels).resize((board.shape[1] * scale, board.shape[0] * scale), 0)
    image.convert("RGB").save(PICTURES / name)
    ROWS.append((name, row, question, answer))


for text, scale, ink in (("HELLO", 5, 0), ("NO", 6, 20), ("OPEN", 4, 240),
                         ("HOTEL", 4, 10), ("TABLE", 5, 0)):  # fmt: skip
    board = np.zeros((28, 48), bool)
    stamp(board, text, 8, 10)
    keep(board, scale, ink, "text", "Extract all the text.", text)

for names, values, best in ((("A", "B", "C"), (12, 25, 18), "highest"),
                            (("A", "B", "C"), (22, 15, 8), "lowest"),
                            (("L", "N", "T"), (9, 14, 27), "highest"),
                            (("E", "H", "P"), (28, 11, 20), "lowest"),
                            (("1", "2", "7"), (16, 29, 7), "highest")):  # fmt: skip
    board = np.zeros((48, 72), bool)
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        board[36 - value : 36, 8 + i * 22 : 20 + i * 22] = True
        stamp(board, name, 12 + i * 22, 39)
    pick = max if best == "highest" else min
    found = names[values.index(pick(values))]
    keep(board, 4, 0, "chart", f"Which bar is the {best}?", f"{found} is the {best}.")
record("pixel_letters", ROWS)
