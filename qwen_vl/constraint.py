"""What an answer must look like: a JSON schema, any JSON object, a choice, a regex or a grammar.

Reads the fields of OpenAI's and of vLLM's requests, and writes them for another server. Knows the
bounds of what is taken. Knows nothing of tokens: `engine.local.constrain` makes masks of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qwen_vl.errors import BadRequest, Unsupported

MOST_CHARS = 65_536  # of a schema, or of all choices together
MOST_GRAMMAR_CHARS = 16_384  # of a regex or a grammar: each character may be a state
MOST_MULTIPLE = 1_000  # of `multipleOf`: each multiple is a state
MOST_DEPTH = 48  # of a schema, counting objects and lists
MOST_VALUES = 5_000  # of a schema, counting objects, lists, texts and numbers
MOST_CHOICES = 1_000

Kind = Literal["json_object", "json_schema", "choice", "regex", "grammar"]

# What vLLM calls them: inside `structured_outputs`, and in fields of their own before that.
STRUCTURED: dict[str, Kind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
}
GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
WIRE_FIELDS = ("response_format", "structured_outputs", *GUIDED)


@dataclass(frozen=True)
class Constraint:
    """What every answer fits, thoughts excepted.

    `source` is a schema as JSON text, a list of choices as JSON text, a regex, a Lark grammar, or
    "" for any JSON object. Without `strict`, keywords of a schema that cannot be enforced say
    nothing; with it they are refused. `place` is the request's field, for messages.
    """

    kind: Kind
    source: str = ""
    strict: bool = True
    place: str = "response_format"
    name: str = "answer"  # of a schema, for servers that want one
    tags: tuple[str, ...] = ()  # of a grammar: tokens that are no text elsewhere

    @property
    def is_json(self) -> bool:
        return self.kind in ("json_object", "json_schema")


def json_schema(
    schema: Mapping[str, Any], *, strict: bool = True, place: str = "", name: str = "answer"
) -> Constraint:
    """Raises BadRequest for a schema that is too large or too deep, naming the place."""
    _check_depth(schema, place)
    source = _bounded(json.dumps(schema, ensure_ascii=False), place)
    return Constraint("json_schema", source, strict, place, name)


def constraint_from(raw: Mapping[str, Any]) -> Constraint | None:
    """The constraint in a request's fields; None where there is none.

    Raises BadRequest or Unsupported that names the field, also where there are two.
    """
    found = {name: raw[name] for name in WIRE_FIELDS if raw.get(name) is not None}
    readers = {"response_format": _response_format, "structured_outputs": _structured}
    made = []
    for name, value in found.items():
        if name in readers:
            made.append((name, readers[name](value)))
        else:
            kind = STRUCTURED[name.removeprefix("guided_")]
            made.append((name, _READERS[kind](value, name)))
    bound = [(name, constraint) for name, constraint in made if constraint is not None]
    if len(bound) > 1:
        raise BadRequest(f"'{bound[0][0]}' and '{bound[1][0]}' exclude each other: send one.")
    return bound[0][1] if bound else None


def wire_fields(constraint: Constraint) -> dict[str, Any]:
    """The fields that tell another server: OpenAI's where it has one, else vLLM's."""
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json_schema":
        schema = {"name": constraint.name, "schema": json.loads(constraint.source)}
        schema["strict"] = constraint.strict
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    is_list = constraint.kind == "choice"
    source = json.loads(constraint.source) if is_list else constraint.source
    return {"structured_outputs": {constraint.kind: source}}


# --- OpenAI's field ---


def _response_format(raw: Any) -> Constraint | None:
    form = raw if isinstance(raw, Mapping) else {"type": raw}
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = form.get("schema")  # as llama.cpp's clients give it
        if schema is None:
            return Constraint("json_object")
        return _schema(schema, "response_format.schema")
    if kind == "json_schema":
        return _named_schema(form.get("json_schema"))
    raise Unsupported("'response_format.type' can be text, json_object or json_schema here.")


def _named_schema(raw: Any) -> Constraint:
    place = "response_format.json_schema"
    if not isinstance(raw, Mapping):
        raise BadRequest(f"'{place}' must be an object with a 'schema'.")
    strict, name = raw.get("strict"), raw.get("name", "answer")
    if not isinstance(strict, bool | None):
        raise BadRequest(f"'{place}.strict' must be true or false.")
    if not isinstance(name, str) or not 0 < len(name) <= 64:
        raise BadRequest(f"'{place}.name' must be text of 1 to 64 characters.")
    return _schema(raw.get("schema"), f"{place}.schema", strict=bool(strict), name=name)


# --- vLLM's fields ---


def _structured(raw: Any) -> Constraint | None:
    if not isinstance(raw, Mapping):
        raise BadRequest("'structured_outputs' must be an object.")
    asked = {name: value for name, value in raw.items() if value not in (None, False)}
    unknown = sorted(str(name) for name in asked if name not in STRUCTURED)
    if unknown:
        raise BadRequest(
            f"'structured_outputs' can have {', '.join(STRUCTURED)} here, not {unknown[0]!r}."
        )
    if len(asked) != 1:
        raise BadRequest(f"'structured_outputs' must have one of {', '.join(STRUCTURED)}.")
    name, value = next(iter(asked.items()))
    return _READERS[STRUCTURED[name]](value, f"structured_outputs.{name}")


def _any_object(raw: Any, place: str) -> Constraint:
    if raw is not True:
        raise BadRequest(f"'{place}' must be true or false.")
    return Constraint("json_object", place=place)


def _schema(raw: Any, place: str, strict: bool = True, name: str = "answer") -> Constraint:
    if isinstance(raw, str):
        try:
            raw = json.loads(_bounded(raw, place))
        except (ValueError, RecursionError):
            raise BadRequest(f"'{place}' is not valid JSON.") from None
    if not isinstance(raw, Mapping):
        raise BadRequest(f"'{place}' must be a JSON schema: an object.")
    return json_schema(raw, strict=strict, place=place, name=name)


def _choice(raw: Any, place: str) -> Constraint:
    if not isinstance(raw, list) or not raw or not all(isinstance(c, str) and c for c in raw):
        raise BadRequest(f"'{place}' must be a list of non-empty strings.")
    if len(raw) > MOST_CHOICES:
        raise BadRequest(f"'{place}' takes at most {MOST_CHOICES:,} choices.")
    return Constraint("choice", _bounded(json.dumps(raw, ensure_ascii=False), place), place=place)


def _pattern(raw: Any, place: str) -> Constraint:
    return Constraint("regex", _text(raw, place), place=place)


def _grammar(raw: Any, place: str) -> Constraint:
    return Constraint("grammar", _text(raw, place), place=place)


_READERS: dict[Kind, Callable[[Any, str], Constraint]] = {
    "json_object": _any_object,
    "json_schema": _schema,
    "choice": _choice,
    "regex": _pattern,
    "grammar": _grammar,
}


# --- bounds ---


def _text(raw: Any, place: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise BadRequest(f"'{place}' must be a non-empty string.")
    return _bounded(raw, place, MOST_GRAMMAR_CHARS)


def _bounded(text: str, place: str, most: int = MOST_CHARS) -> str:
    if len(text) > most:
        raise BadRequest(f"'{place}' has {len(text):,} characters, more than {most:,}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"'{place}' is not valid Unicode: half of a surrogate pair.") from None
    return text


def _check_depth(schema: Any, place: str) -> None:
    """Without recursion: a schema may be as deep as JSON can be."""
    left, count = [(schema, place, 1)], 0
    while left:
        value, where, depth = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise BadRequest(f"'{place}' has more than {MOST_VALUES:,} values: make it smaller.")
        if depth > MOST_DEPTH:
            shown = where if len(where) < 200 else f"{where[:200]}…"
            raise BadRequest(f"'{shown}' is nested more than {MOST_DEPTH} levels deep.")
        if isinstance(value, Mapping):
            left += [(inner, f"{where}.{key}", depth + 1) for key, inner in value.items()]
            multiple = value.get("multipleOf")
            if isinstance(multiple, (int, float)) and not _is_small(multiple):
                raise BadRequest(
                    f"'{where}.multipleOf' must be a whole number from 1 to {MOST_MULTIPLE:,}, "
                    "or 0.1, 0.01 or 0.001."
                )
        elif isinstance(value, list):
            left += [(inner, f"{where}[{i}]", depth + 1) for i, inner in enumerate(value)]


def _is_small(multiple: float) -> bool:
    return multiple in (0.1, 0.01, 0.001) or (1 <= multiple <= MOST_MULTIPLE and multiple % 1 == 0)
