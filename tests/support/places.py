"""What the page hands to the browser for drawing, read back out of a turn."""

from __future__ import annotations

import json
from typing import Any

from qwen_vl.ui.history import Turn, text_of
from qwen_vl.ui.markup import from_page


def places_told(turn: Turn) -> dict[str, Any]:
    fence, text, end = from_page(text_of(turn)).splitlines()
    assert (fence, end) == ("```places", "```")
    return json.loads(text)
