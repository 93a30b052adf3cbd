"""What an answer must look like, told to the model in words.

Masks alone would force a model that knows nothing of it. Knows messages; nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen_vl.constraint import Constraint
from qwen_vl.schema import Message, TextPart

JSON_WANTED = "Answer with one JSON object and nothing else."
SCHEMA_WANTED = "Answer in JSON that fits this JSON schema, and say nothing else:"
UNLESS_CALLING = "Call a tool where that helps. Otherwise: "


def with_form_told(
    messages: Sequence[Message], constraint: Constraint, may_call: bool
) -> list[Message]:
    """The conversation with the form at the end of its system message."""
    text = JSON_WANTED
    if constraint.kind != "json_object":
        text = f"{SCHEMA_WANTED}\n{constraint.source}"
    if may_call:
        text = UNLESS_CALLING + text
    if messages[0].role == "system":
        joined = f"{messages[0].text}\n{text}"
        return [Message("system", (TextPart(joined),)), *messages[1:]]
    return [Message("system", (TextPart(text),)), *messages]
