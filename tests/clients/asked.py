"""What every client is asked, and the shape that its cells are held against."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BASE = sys.argv[1].rstrip("/")
V1, KEY, MODEL = f"{BASE}/v1", "none", "qwen"
ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "examples/images/scene.png"
URI = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
QUESTION = "Describe the image."
LIMITS: dict[str, Any] = {"max_tokens": 64, "temperature": 0}

Cells = dict[str, Callable[[], object]]


class Shape(BaseModel):
    """Bounded and closed: so small a model writes digits, and fields of its own, without end."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["circle", "square", "triangle"]
    count: Annotated[int, Field(ge=0, le=9)]


ASKED = [{"role": "user", "content": QUESTION}]
SHOWN: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": URI}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
SHOWN_ITEMS: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": URI, "detail": "auto"},
            {"type": "input_text", "text": QUESTION},
        ],
    }
]
FUNCTION = {
    "name": "count_shapes",
    "description": "Counts shapes.",
    "parameters": Shape.model_json_schema(),
}
TOOL: Any = {"type": "function", "function": FUNCTION}


def said(text: object) -> None:
    assert isinstance(text, str), text
    assert text.strip(), "the answer is empty"


def cells(*functions: Callable[[], object]) -> Cells:
    return {function.__name__: function for function in functions}
