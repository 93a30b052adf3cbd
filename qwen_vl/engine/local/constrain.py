"""Constraints -> which tokens may come next, for one answer.

Compiling happens in the caller's thread and is bounded: a hostile schema costs that caller some
milliseconds. JSON is written without free whitespace: a model could wander in blanks up to its
limit. Knows tokens and bits; nothing of sampling or text. The only importer of llguidance.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import llguidance
import llguidance.hf
import numpy as np

from qwen_vl.constraint import Constraint
from qwen_vl.errors import BadRequest, Unsupported

# One blank at most after a comma and a colon, as models are used to.
_COMPACT = {
    "whitespace_flexible": False,
    "item_separator": ",[ ]?",
    "key_separator": ":[ ]?",
}
# What one schema or one step may take: tens of milliseconds and of megabytes. A step that is too
# much ends its request. The caller takes the first one: most of what is hostile ends there.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=20_000,
    step_max_items=5_000,
    max_lexer_states=25_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
_MANY_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_SAID_CHARS = 200
_AHEAD = ThreadPoolExecutor(1, "masks")  # beside the model's passes


class Matcher:
    """Follows one answer. Starts where the answer starts, after any thought.

    What may follow a token is worked out while the model's next pass runs.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        place: str,
        controls: np.ndarray,
        end_ids: Collection[int],
    ) -> None:
        """`controls` [vocabulary] of bool: tokens that are no text, which no grammar gets.

        Raises what `allowed` raises.
        """
        self._matcher, self._place, self._controls = matcher, place, controls
        self._end_ids = sorted(end_ids)
        self._is_complete = False
        first = self._work_out()  # the caller's thread takes this one
        self._next = lambda: first

    def allowed(self) -> np.ndarray:
        """[vocabulary] of bool: the tokens that may come next, end tokens where it is complete.

        Raises BadRequest where the constraint leads nowhere, or takes too much work.
        """
        return self._next()

    def _work_out(self) -> np.ndarray:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=len(self._controls), bitorder="little").view(bool)
        allowed &= ~self._controls
        allowed[self._end_ids] = self._matcher.is_accepting()
        if self._matcher.is_error() or not allowed.any():
            raise BadRequest(
                f"'{self._place}' leads nowhere, or is too complicated: no token can come next. "
                "Make it simpler."
            )
        return allowed

    def take(self, token: int) -> None:
        """Goes on after a token that was allowed."""
        if token not in self._end_ids:
            self._matcher.consume_token(token)
            self._is_complete = self._matcher.is_stopped() and self._matcher.is_accepting()
            self._next = _AHEAD.submit(self._work_out).result

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self._is_complete


class Grammars:
    """Compiles constraints for one tokenizer. Any thread calls it."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, end_ids: Collection[int]) -> None:
        """`tokenizer` is a fast tokenizer; `vocabulary_size` is the model's, padding included."""
        self._tokenizer, self._size, self._end_ids = tokenizer, vocabulary_size, end_ids
        self._controls = np.zeros(vocabulary_size, bool)
        self._lock = threading.Lock()
        self._table: llguidance.LLTokenizer | None = None

    def matcher(self, constraint: Constraint, begun: str = "") -> Matcher:
        """`begun` is the part of the answer that the request holds already.

        Raises BadRequest, which names the place, for what cannot be compiled, and Unsupported
        for a tokenizer that is not made of bytes.
        """
        table, grammar = self._words(), _grammar_of(self._spelled(constraint))
        matcher = llguidance.LLMatcher(table, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            said = matcher.get_error()
            place = self._place(constraint, said)
            raise BadRequest(f"'{place}' cannot be used: {_short(said)}")
        if begun and not matcher.consume_tokens(table.tokenize_str(begun)):
            raise BadRequest(
                f"The assistant's message that is to be continued does not fit "
                f"'{constraint.place}': leave one of them out."
            )
        controls = self._controls.copy()
        controls[[id_ for tag in constraint.tags if (id_ := self._id(tag)) is not None]] = False
        return Matcher(matcher, constraint.place, controls, self._end_ids)

    def _spelled(self, constraint: Constraint) -> Constraint:
        """Tags that are no tokens of this tokenizer are texts of the grammar."""
        source = constraint.source
        for tag in constraint.tags:
            source = source if self._id(tag) is not None else source.replace(tag, json.dumps(tag))
        return replace(constraint, source=source)

    def _id(self, tag: str) -> int | None:
        """Of a token that is written as `tag`, where there is one."""
        found: int | None = self._tokenizer.get_added_vocab().get(tag)
        return found

    def _words(self) -> llguidance.LLTokenizer:
        """Made when it is first asked for: it takes a second for a large vocabulary."""
        with self._lock:
            if self._table is None:
                try:
                    self._table = llguidance.hf.from_tokenizer(
                        self._tokenizer,
                        n_vocab=self._size,
                        eos_token=min(self._end_ids, default=None),
                    )
                except ValueError as error:
                    raise Unsupported(
                        "This model's tokenizer cannot be made to write answers of a given form "
                        f"({_short(str(error))}): ask without one."
                    ) from None
                special = map(self._table.is_special_token, range(self._table.vocab_size))
                self._controls[: self._table.vocab_size] = list(special)
            return self._table

    def _place(self, constraint: Constraint, said: str) -> str:
        """The innermost schema that alone is refused in the same words."""
        if constraint.kind != "json_schema":
            return constraint.place
        root = json.loads(constraint.source)
        shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
        schema, place = root, constraint.place
        while True:
            for where, inner in _inner_schemas(schema):
                alone = json.dumps({**shared, **inner})
                grammar = _json_grammar(alone, strict=constraint.strict)
                if llguidance.LLMatcher.validate_grammar(grammar, limits=_LIMITS) == said:
                    schema, place = inner, f"{place}.{where}"
                    break
            else:
                return place


def _grammar_of(constraint: Constraint) -> str:
    if constraint.kind == "json_object":
        return _json_grammar('{"type": "object"}')
    if constraint.kind == "json_schema":
        try:
            return _json_grammar(constraint.source, strict=constraint.strict)
        except ValueError as error:
            raise BadRequest(f"'{constraint.place}' cannot be used: {_short(str(error))}") from None
    if constraint.kind == "choice":
        # JSON's texts are texts of the grammar too.
        choices = (json.dumps(choice) for choice in json.loads(constraint.source))
        return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(choices))
    if constraint.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(constraint.source)
    return llguidance.LLMatcher.grammar_from_lark(constraint.source)


def _json_grammar(schema: str, *, strict: bool = True) -> str:
    options = {**_COMPACT, "lenient": not strict, "coerce_one_of": not strict}
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=options)  # type: ignore[arg-type]


def _inner_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, schema) of what a schema is made of."""
    for key, value in schema.items():
        if key in _MANY_SCHEMAS and isinstance(value, dict):
            found = [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif key in _LISTS and isinstance(value, list):
            found = [(f"{key}[{i}]", inner) for i, inner in enumerate(value)]
        elif key in _ONE_SCHEMA:
            found = [(key, value)]
        else:
            continue
        yield from ((where, inner) for where, inner in found if isinstance(inner, dict))


def _short(said: str) -> str:
    return " ".join(said.split())[:_SAID_CHARS]
