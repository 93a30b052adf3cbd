"""The sampling fields: one list with ranges, defaults and help, and what a caller sends -> values.

Everything else derives from this list: request validation, the OpenAPI document, the page's
controls, the request to another server, the table in docs/api.md (`python -m qwen_vl.sampling`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from qwen_vl.config import MIN_IMAGE_TOKENS, MOST_IMAGE_TOKENS, USUAL_IMAGE_TOKENS, Settings
from qwen_vl.constraint import Constraint
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.tools import Tools

MOST_STOPS, MOST_STOP_CHARS = 16, 1000  # the characters of all of them together
MOST_BIASES = 1024
MOST_THOUGHT_TOKENS = 1_000_000
NO_EFFORT = ("none", "minimal")  # mean no thought at all
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # the least first


@plain_dataclass(frozen=True)
class Control:
    """How the page shows a field. `step` is a slider's; `highest` ends it below the range."""

    kind: Literal["slider", "lines", "seed", "switch", "effort"] = "slider"
    step: float = 1
    highest: float | None = None


def _number(value: Any) -> Any:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError("a number")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():  # sliders and JSON may say 20.0
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _effort(value: Any) -> Any:
    if value not in EFFORTS:
        raise ValueError(f"one of {', '.join(EFFORTS)}")
    return value


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, (list, tuple)) or not all(isinstance(s, str) and s for s in stops):
        raise ValueError("a non-empty string or a list of them")
    if len(stops) > MOST_STOPS or sum(len(s) for s in stops) > MOST_STOP_CHARS:
        raise TooLarge(
            f"'stop' takes at most {MOST_STOPS} strings of {MOST_STOP_CHARS:,} characters in all."
        )
    check_unicode("".join(stops), "'stop'")
    return tuple(stops)


def _biases(value: Any) -> Any:
    """OpenAI's form: an object of token ids, as strings, and what to add to their logits."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, Mapping) or len(value) > MOST_BIASES:
        raise ValueError(f"an object of at most {MOST_BIASES:,} token ids and numbers")
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in value):
        raise BadRequest("'logit_bias' must have token ids, as strings, for its keys.")
    if any(len(key) > 9 for key in value):
        raise BadRequest("'logit_bias' names a token id that no model has.")
    return tuple((int(key), checked(key, _Bias, bias)) for key, bias in value.items())


def check_unicode(text: str, what: str) -> None:
    """JSON can carry half a surrogate pair, which no tokenizer and no other server takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{what} is not valid Unicode: half of a surrogate pair.") from None


# After the bounds in an annotation: it runs first, and the bounds stay in the JSON schema.
NUMBER, WHOLE = BeforeValidator(_number), BeforeValidator(_whole)
TRUTH = BeforeValidator(_truth)
_Bias = Annotated[float, Field(ge=-100, le=100), NUMBER]
Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "maxItems": MOST_STOPS,
                },
            ]
        }
    ),
]
Biases = Annotated[
    tuple[tuple[int, float], ...],
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is sampled. Raises pydantic's ValidationError, a ValueError, out of range.

    temperature 0 is greedy, and then top_p, top_k and min_p mean nothing. Penalties are over
    generated tokens only. presence_penalty is subtracted once from the logit of every token
    already generated, frequency_penalty once for each time it was generated.
    """

    temperature: Annotated[
        float,
        Field(ge=0, le=2, description="0 is greedy: always the likeliest token"),
        NUMBER,
        Control(step=0.05),
    ] = 0.7
    top_p: Annotated[
        float,
        Field(ge=0, le=1, description="only the likeliest tokens with this probability together"),
        NUMBER,
        Control(step=0.01),
    ] = 0.8
    top_k: Annotated[
        int,
        Field(ge=0, le=1000, description="only this many of the likeliest tokens; 0 is off"),
        WHOLE,
        Control(highest=200),
    ] = 20
    min_p: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="no token below this share of the likeliest one's probability; 0 is off",
        ),
        NUMBER,
        Control(step=0.01),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Field(ge=0.5, le=2, description="lowers the scores of tokens already generated; 1 is off"),
        NUMBER,
        Control(step=0.01),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Field(ge=-2, le=2, description="subtracted once for each token already generated"),
        NUMBER,
        Control(step=0.1),
    ] = 1.5
    frequency_penalty: Annotated[
        float,
        Field(ge=-2, le=2, description="subtracted for each time that a token was generated"),
        NUMBER,
        Control(step=0.1),
    ] = 0.0
    max_new_tokens: Annotated[
        int,
        Field(ge=1, description="tokens of the answer, up to --max-new-tokens"),
        WHOLE,
        Control(),
    ] = 1024
    seed: Annotated[
        Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None,
        Field(description="the same seed gives the same text"),
        Control("seed"),
    ] = None
    stop: Annotated[Stops, Field(description="texts that end the answer"), Control("lines")] = ()
    logit_bias: Annotated[
        Biases, Field(description="token id -> what is added to its score, -100 .. 100")
    ] = ()
    max_image_tokens: Annotated[
        int,
        Field(
            ge=MIN_IMAGE_TOKENS,
            le=MOST_IMAGE_TOKENS,
            description="visual tokens of each picture, up to --max-image-tokens; where nothing is "
            "said, what --image-tokens says",
        ),
        WHOLE,
        Control(step=16),
    ] = USUAL_IMAGE_TOKENS
    enable_thinking: Annotated[
        Annotated[bool, TRUTH] | None,
        Field(description="whether to think before the answer; null is the model's own default"),
        Control("switch"),
    ] = None
    reasoning_effort: Annotated[
        Annotated[
            Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"],
            BeforeValidator(_effort),
        ]
        | None,
        Field(description="how much to think, as far as the model knows degrees of it"),
        Control("effort"),
    ] = None
    thinking_budget: Annotated[
        Annotated[int, Field(ge=0, le=MOST_THOUGHT_TOKENS), WHOLE] | None,
        Field(description="tokens of the thought, up to --max-thought-tokens; then the answer"),
    ] = None
    preserve_thinking: Annotated[
        Annotated[bool, TRUTH] | None,
        Field(description="whether the model sees its earlier thoughts; null is its own default"),
    ] = None

    # Not among FIELDS: these come in fields of their own, which the API reads.
    constraint: Constraint | None = None
    tools: Tools | None = None  # that the answer may call
    logprobs: int | None = None  # so many of the likeliest tokens are told beside each; None: none
    model: str = ""  # which one answers, where several do; "" is the first

    @property
    def thinks(self) -> bool | None:
        """Whether a thought is asked for; None leaves it to the model."""
        if self.enable_thinking is None and self.reasoning_effort is not None:
            return self.reasoning_effort not in NO_EFFORT
        return self.enable_thinking


FIELDS = tuple(
    field.name
    for field in fields(SamplingParams)
    if field.name not in ("constraint", "tools", "logprobs", "model")
)
# What clients call a field, where that is another name; the first one that is given counts.
NO_WISH = ("max_new_tokens", "thinking_budget")  # -1 in these says nothing
WIRE_NAMES: dict[str, tuple[str, ...]] = {"max_new_tokens": ("max_completion_tokens", "max_tokens")}


def nth_seed(seed: int | None, n: int) -> int | None:
    """The seed of the n-th further answer to one question: the next ones, in the same range."""
    return None if seed is None else (seed + n + 2**63) % 2**64 - 2**63


def wire_names(name: str) -> tuple[str, ...]:
    """The names of a field in requests."""
    return WIRE_NAMES.get(name, (name,))


@cache
def hint_of(name: str) -> Any:
    """The annotated type of a field."""
    return get_type_hints(SamplingParams, include_extras=True)[name]


def control_of(name: str) -> Control | None:
    """How the page shows a field; None where it does not."""
    return next((item for item in get_args(hint_of(name)) if isinstance(item, Control)), None)


def range_of(name: str) -> tuple[float, float]:
    """The least and the greatest value of a field of numbers."""
    return _range(hint_of(name))


def help_of(name: str) -> str:
    """What a field does, in a few words."""
    found = (item for item in get_args(hint_of(name)) if isinstance(item, FieldInfo))
    return next(item.description or "" for item in found)


def json_schema(name: str) -> dict[str, Any]:
    """What a request may hold in this field: its type and range, or null for the default."""
    schema = _adapter(hint_of(name)).json_schema()
    schema.pop("description", "")
    choices = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    choices = [choice for choice in choices if choice != {"type": "null"}]
    return {"description": help_of(name), "anyOf": [*choices, {"type": "null"}]}


def params_from(
    raw: Mapping[str, Any], defaults: SamplingParams, settings: Settings
) -> SamplingParams:
    """The sampling fields of a request over `defaults`; a missing or null field keeps its default.

    More tokens than the server gives are as many as it gives; -1 of them is no wish at all. A
    greedy answer is not penalised for repeating itself unless that is asked for: what it reads may
    repeat. Raises BadRequest on a wrong type or a value out of range.
    """
    limit = settings.max_new_tokens
    values: dict[str, Any] = {"max_new_tokens": min(defaults.max_new_tokens, limit)}
    for name in FIELDS:
        told = next((wire for wire in wire_names(name) if raw.get(wire) is not None), None)
        if told is None or (name in NO_WISH and raw[told] == -1):
            continue
        values[name] = checked(told, hint_of(name), raw[told])
        if name == "max_new_tokens":
            values[name] = min(values[name], limit)
        if name == "thinking_budget":
            values[name] = min(values[name], settings.max_thought_tokens)
        if name == "max_image_tokens" and values[name] > settings.max_image_tokens:
            raise _out_of_range(told, MIN_IMAGE_TOKENS, settings.max_image_tokens)
    if values.get("temperature") == 0:
        values.setdefault("presence_penalty", 0.0)
    return replace(defaults, **values)


def checked(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotated type `hint` takes it. Raises BadRequest that names the field."""
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        cause = error.errors()[0]
        if cause["type"] == "value_error":
            raise BadRequest(f"'{name}' must be {cause['ctx']['error']}.") from None
        raise _out_of_range(name, *_range(hint)) from None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _range(hint: Any) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for bound in _metadata(hint):
        low, high = float(getattr(bound, "ge", low)), float(getattr(bound, "le", high))
    return low, high


def _metadata(hint: Any) -> list[Any]:
    """The bounds that stand in a type's annotations, at any depth."""
    found: list[Any] = []
    for item in get_args(hint):
        found += getattr(item, "metadata", [])
        found += _metadata(item)
    return found


def _out_of_range(name: str, low: float, high: float) -> BadRequest:
    bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    return BadRequest(f"'{name}' must be {bounds}.")


def table() -> str:
    """All fields as a Markdown table: name in requests, range, default, help."""
    lines = ["| Field | Range | Default | Meaning |", "|---|---|---|---|"]
    for name in FIELDS:
        low, high = range_of(name)
        shown = "" if math.isinf(low) or high > 2**62 else f"{low:g} .. {high:g}"
        shown = f"{low:g} .." if high == math.inf and low > 0 else shown
        default = getattr(SamplingParams(), name)
        told = "" if default in (None, ()) else f"{default:g}"
        names = " or ".join(f"`{wire}`" for wire in wire_names(name))
        lines.append(f"| {names} | {shown} | {told} | {help_of(name)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
