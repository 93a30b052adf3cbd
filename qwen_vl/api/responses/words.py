"""Refusals in the words of the request that they are about.

A Responses request is read as a chat request, so what is wrong with it is told of fields that its
sender has never written. Knows the names of both formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from qwen_vl.errors import UserError

_FIELDS = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "tool_call_id": "call_id",
    "image_url.url": "image_url",
    "image_url.detail": "detail",
    "'messages'": "'input'",
}
_FIELD = re.compile("|".join(map(re.escape, _FIELDS)))
# One level of a tool and of a call, which this format does not have.
_NESTED = re.compile(r"((?:tools|input)\[\d+\])\.function")
_PLACE = re.compile(r"messages\[\d+\](?:\.content|\.tool_calls\[\d+\])?")


def in_its_words(text: str, places: Mapping[str, str]) -> str:
    """`places` tells where in the request the parts of the chat request stood."""
    text = _PLACE.sub(lambda found: places.get(found[0], found[0]), text)
    text = _FIELD.sub(lambda found: _FIELDS[found[0]], text)
    return _NESTED.sub(r"\1", text)


def retold(error: UserError, places: Mapping[str, str]) -> UserError:
    """The same error in other words."""
    error.args = (in_its_words(str(error), places), *error.args[1:])
    return error


@contextmanager
def retelling(places: Mapping[str, str]) -> Iterator[None]:
    """Raises what is raised inside, in the words of the request."""
    try:
        yield
    except UserError as error:
        retold(error, places)
        raise
