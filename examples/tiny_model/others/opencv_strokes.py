"""Ten pictures by OpenCV: its stroke font, anti-aliased shapes, bars with their numbers."""

import cv2
import numpy as np
from asked import PICTURES, record

FONT, ROWS = cv2.FONT_HERSHEY_DUPLEX, []


def paper(shade: int, width: int = 380, height: int = 240) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def keep(image: np.ndarray, row: str, question: str, answer: str) -> None:
    name = f"opencv-{len(ROWS)}.png"
    cv2.imwrite(str(PICTURES / name), image)
    ROWS.append((name, row, question, answer))


for lines in (("PARCEL 4471", "Shelf 12"), ("Gate open", "06:30 - 22:00"), ("Speed 48 km/h",)):
    image = paper(245, height=70 + 50 * len(lines))
    for i, text in enumerate(lines):
        cv2.putText(image, text, (24, 60 + 50 * i), FONT, 1.0, (40, 40, 40), 2, cv2.LINE_AA)
    keep(image, "text", "Extract all the text.", "\n".join(lines))

for labels, values, best in (
    (("Oak", "Elm", "Ash"), (40, 90, 65), "highest"),
    (("Mon", "Tue", "Wed", "Thu"), (30, 55, 15, 80), "lowest"),
    (("A", "B", "C"), (70, 20, 45), "highest"),
    (("Bus", "Tram", "Bike"), (25, 60, 100), "lowest"),
):
    image = paper(255)
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        x = 40 + i * 85
        cv2.rectangle(image, (x, 195 - int(value * 1.5)), (x + 50, 195), (180, 120, 40), -1)
        cv2.putText(image, label, (x, 222), FONT, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
        top = (x + 8, 188 - int(value * 1.5))
        cv2.putText(image, str(value), top, FONT, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    pick = max if best == "highest" else min
    name = labels[values.index(pick(values))]
    keep(image, "chart", f"Which bar is the {best}?", f"{name} is the {best}.")

image = paper(225)
cv2.circle(image, (300, 120), 38, (200, 60, 40), -1, cv2.LINE_AA)
keep(image, "naming", "What is at the right?", "A blue circle is at the right.")
image = paper(240)
cv2.fillPoly(image, [np.array([[190, 20], [150, 85], [230, 85]])], (40, 160, 40), cv2.LINE_AA)
cv2.rectangle(image, (160, 150), (220, 210), (30, 30, 210), -1)
keep(image, "counting", "How many shapes are there?", "There are 2 shapes.")
image = paper(210)
cv2.rectangle(image, (30, 85), (100, 155), (30, 220, 250), -1)
keep(image, "naming", "What colour is the square?", "The square is yellow.")
record("opencv_strokes", ROWS)
