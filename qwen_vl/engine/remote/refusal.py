"""What the refusal of another server means: a field that it does not take, or a message to show.

A refusal may quote the question. So where the question itself names a field, what the refusal says
about that field counts for this question alone. Refusals are never logged. Knows errors of openai's
client; knows nothing of connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

from qwen_vl.engine.remote.request import OPTIONAL, texts_of
from qwen_vl.engine.remote.wire import Garbled
from qwen_vl.errors import BadRequest, ModelUnavailable, TooLarge, Unsupported, UserError

SAID_CHARS = 300  # of a server's own words that a user sees
_DEPTH, _ENTRIES = 5, 200  # of an error's body that are looked at

_UNKNOWN = (
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|extra|forbidden|not (?:supported|permitted|"
    r"allowed|recogni[sz]ed|known)|(?:does not|doesn't) (?:support|take|accept|know)"
)
_VALUE = (
    r"must|should|at (?:least|most)|between|range|greater|less|(?:too|invalid) (?:value|large|"
    r"small|high|low)|_(?:equal|than|type|parsing)\b"
)
_SECRETS = re.compile(r"\bsk-[\w-]{6,}|(?<=Bearer )\S+|(?<=Basic )\S+|(?<=//)[^/\s@]+(?=@)")


@dataclass
class Refused:
    """Fields of a request that a server does not take."""

    now: set[str] = field(default_factory=set)  # with these values, or in this question
    always: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        return self.now | self.always


def refused_fields(error: openai.APIStatusError, request: dict[str, Any]) -> Refused:
    """The optional fields of `request` that `error` is about; none if it is about the question."""
    sent = [name for name in OPTIONAL if name in request or name in request["extra_body"]]
    refused = Refused()
    for names, words in _entries(error.body):  # where the server names them as data
        for name in names & set(sent):
            about_value = re.search(_VALUE, words, re.I) and not re.search(_UNKNOWN, words, re.I)
            (refused.now if about_value else refused.always).add(name)
    if refused.all:
        return refused
    words, asked = _words(error), texts_of(request)
    for name in sent:
        if _is_near(_UNKNOWN, name, words):
            may_be_quoted = any(name in text for text in asked)
            (refused.now if may_be_quoted else refused.always).add(name)
        elif _is_near(_VALUE, name, words):
            refused.now.add(name)
    return refused


def _is_near(told: str, name: str, words: str) -> bool:
    """Whether one sentence says `told` about the field."""
    before = rf"(?:{told})[^.\n]{{0,200}}\b{name}\b"
    after = rf"\b{name}\b[^.\n]{{0,80}}(?:{told})"
    return re.search(f"{before}|{after}", words[:2000], re.I) is not None


def _entries(body: object) -> Iterator[tuple[set[str], str]]:
    """(names, what is said of them) of OpenAI's `param` and FastAPI's `loc`, wherever they are."""
    left, seen = [(body, 0)], 0
    while left and seen < _ENTRIES:
        found, depth = left.pop()
        seen += 1
        inner = list(found.values()) if isinstance(found, dict) else found
        if isinstance(inner, list) and depth < _DEPTH:
            left += [(value, depth + 1) for value in inner[:_ENTRIES] if _holds_more(value)]
        if not isinstance(found, dict):
            continue
        param, loc = found.get("param"), found.get("loc")
        names = set(re.findall(r"\w+", param[:200])) if isinstance(param, str) else set()
        if isinstance(loc, list):
            names |= {name for name in loc[:10] if isinstance(name, str)}
        said = (found.get(key) for key in ("type", "code", "msg", "message"))
        yield names, " ".join(words[:1000] for words in said if isinstance(words, str))


def _holds_more(value: object) -> bool:
    return isinstance(value, dict | list)


# --- words ---


def told_of(error: openai.APIStatusError, said: str) -> UserError | None:
    """What a server's refusal means to the user; None for what may go well elsewhere."""
    if 300 <= error.status_code < 400:
        return ModelUnavailable(
            "The server behind this one sends its questions to another address, which is not "
            "followed: check --base-url."
        )
    if error.status_code in (401, 403):
        return ModelUnavailable(f"The server behind this one refuses its key: {said}")
    if error.status_code == 404:
        return ModelUnavailable(f"The server behind this one does not have this model: {said}")
    kinds: dict[int, type[UserError]] = {400: BadRequest, 413: TooLarge, 415: BadRequest}
    kinds[422] = Unsupported
    if error.status_code in kinds:
        return kinds[error.status_code](f"The server behind this one refused it: {said}")
    return None


def said_of(error: Exception, hidden: Sequence[str]) -> str:
    """An error in one short line, with the server's own words where it sent some.

    Credentials are cut out: the texts in `hidden`, and everything that looks like a key.
    """
    if isinstance(error, openai.APIStatusError):
        words = _words(error) or f"status {error.status_code}"
    else:
        cause = error.__cause__
        words = str(cause if isinstance(cause, Garbled) else error) or type(error).__name__
    for secret in hidden:
        words = words.replace(secret, "…")
    return _SECRETS.sub("…", " ".join(words.split()))[:SAID_CHARS]


def _words(error: openai.APIStatusError) -> str:
    """In OpenAI's shape, or that of FastAPI's own errors, or as plain text."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error")
        told = inner if isinstance(inner, dict) else body
        body = next(
            (told[key] for key in ("message", "detail", "error") if told.get(key)), str(error)
        )
    if isinstance(body, list):
        body = " ".join(str(entry.get("msg", "")) for entry in body if isinstance(entry, dict))
    if not isinstance(body, str) or body.lstrip()[:1] == "<":  # a web page says nothing here
        return f"status {error.status_code}"
    return body
