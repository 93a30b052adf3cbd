"""Answers that must look like something: what they are, what ends them, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.random_schemas import random_schema
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking, serving

from qwen_vl import EXAMPLES
from qwen_vl.config import Settings
from qwen_vl.constraint import MOST_DEPTH, WIRE_FIELDS, Constraint, constraint_from
from qwen_vl.engine import Engine, open_engine
from qwen_vl.errors import BadRequest, Unsupported, UserError
from qwen_vl.media.pictures import open_image
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.ui.examples import Example, load_examples
from qwen_vl.ui.tasks import task_of

SCHEMAS = 40  # in this suite; more with `python tests/test_constrain.py 500`
AGE = {"type": "integer", "minimum": 0, "maximum": 150}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": AGE},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WILD = {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "presence_penalty": 0.0}


def opened(settings: Settings) -> Engine:
    engine = open_engine(settings)
    while engine.status().state == "loading":
        time.sleep(0.01)
    assert engine.status().state == "ready"
    return engine


@pytest.fixture(scope="module")
def bundled() -> Iterator[Engine]:
    engine = opened(Settings(model="bundled", max_batch=8))
    yield engine
    engine.close()


def answer(
    engine: Engine, constraint: Constraint | None, *begun: str, **fields: Any
) -> tuple[str, str | None]:
    """(text, finish reason) of an answer at a temperature where a free one is noise."""
    params = SamplingParams(**{**WILD, "seed": 1, "max_new_tokens": 120, **fields},
                            constraint=constraint)  # fmt: skip
    turns = [Message("user", (TextPart("Hello"),))]
    turns += [Message("assistant", (TextPart(text),)) for text in begun]
    chunks = list(engine.stream(turns, params))
    return "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason


def strictly(schema: dict[str, Any]) -> Constraint | None:
    named = {"name": "x", "strict": True, "schema": schema}
    return constraint_from({"response_format": {"type": "json_schema", "json_schema": named}})


def fits_or_is_cut(engine: Engine, seed: int) -> bool:
    """Whether the answer to a random schema validates; one that is cut off tells so."""
    schema = random_schema(seed)
    text, reason = answer(engine, strictly(schema), seed=seed, max_new_tokens=200)
    if reason != "stop":
        assert reason in ("length", "repetition"), (seed, reason)
        return False
    jsonschema.validate(
        json.loads(text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return True


def all_fit(engine: Engine, count: int) -> int:
    """How many answers are whole, eight at once."""
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda seed: fits_or_is_cut(engine, seed), range(count)))


def test_answers_to_random_schemas_validate_or_tell_that_they_are_cut(bundled: Engine) -> None:
    assert all_fit(bundled, SCHEMAS) > SCHEMAS / 2


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"guided_choice": ["yes", "no", 'with "quotes" \\ and ü']},
         '(yes|no|with "quotes" \\\\ and ü)'),
        ({"structured_outputs": {"choice": ["yes", "yes, but"]}}, "yes(, but)?"),
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"structured_outputs": {"regex": "(ab)+c"}}, "(ab)+c"),
        ({"guided_grammar": 'start: "<" word ">"\nword: /[a-z]{1,5}/'}, "<[a-z]{1,5}>"),
        ({"structured_outputs": {"grammar": 'start: "a" | "b" start'}}, "b*a"),
    ],
)  # fmt: skip
def test_vllms_fields_bind(bundled: Engine, fields: dict[str, Any], shape: str) -> None:
    for seed in range(3):
        text, reason = answer(bundled, constraint_from(fields), seed=seed)
        if reason == "stop":
            assert re.fullmatch(shape, text)


def test_an_object_is_asked_for_in_either_spelling(bundled: Engine) -> None:
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
    ):
        text, _ = answer(bundled, constraint_from(fields))
        assert text.startswith("{")
    assert constraint_from({"response_format": {"type": "text"}}) is None
    assert constraint_from(dict.fromkeys(WIRE_FIELDS)) is None


def test_an_answer_that_is_cut_says_so(bundled: Engine) -> None:
    constraint = constraint_from({"guided_json": {"type": "array", "minItems": 500}})
    text, reason = answer(bundled, constraint, max_new_tokens=9)
    assert reason == "length"
    with pytest.raises(ValueError, match=r"\w"):
        json.loads(text)


def test_a_stop_string_still_ends_it(bundled: Engine) -> None:
    constraint = constraint_from({"guided_regex": "abcdef"})
    assert answer(bundled, constraint, stop=("d",)) == ("abc", "stop")


def test_a_begun_answer_is_continued_to_its_end(bundled: Engine) -> None:
    begun = '{"name": "Ann",'
    text, reason = answer(bundled, strictly(PERSON), begun)
    assert reason == "stop"
    jsonschema.validate(json.loads(begun + text), PERSON)
    with pytest.raises(BadRequest, match="continued"):
        answer(bundled, strictly(PERSON), "Well, ")


def test_the_same_seed_gives_the_same_text_beside_others(bundled: Engine) -> None:
    alone = answer(bundled, strictly(PERSON), seed=5), answer(bundled, None, seed=5)
    with ThreadPoolExecutor(6) as pool:
        bound = pool.map(lambda seed: answer(bundled, strictly(PERSON), seed=seed), [5, 6, 7])
        free = pool.map(lambda seed: answer(bundled, None, seed=seed), [5, 6, 7])
        assert (next(bound), next(free)) == alone


def test_a_tokenizer_without_bytes_is_told_as_such(tiny_checkpoints: dict[str, Path]) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), dtype="float32"))
    with pytest.raises(Unsupported, match="tokenizer"):
        answer(engine, constraint_from({"guided_regex": "a"}))
    engine.close()


def test_a_thought_is_free_and_the_answer_after_it_is_not(tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / "tiny_model/model", tmp_path / "thinks")
    template = folder / "chat_template.jinja"
    told = template.read_text(encoding="utf-8")
    template.write_text(told + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}")
    engine = opened(Settings(model=str(folder), dtype="float32"))
    params = SamplingParams(
        **WILD, seed=3, max_new_tokens=60, thinking_budget=8,
        constraint=constraint_from({"guided_regex": "[0-9]{4}"}),
    )  # fmt: skip
    chunks = list(engine.stream([Message("user", (TextPart("Hello"),))], params))
    engine.close()
    thought = "".join(chunk.thought for chunk in chunks)
    assert thought
    assert not re.fullmatch("[0-9]{4}", thought)
    assert re.fullmatch("[0-9]{4}", "".join(chunk.text for chunk in chunks))


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "schema.properties.a.items'"),
        ({"properties": {"a": {"$ref": "http://x/y"}}}, "schema.properties.a'"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "schema.properties.a'"),
        ({"anyOf": [{"type": "string"}, {"type": "text"}]}, "schema.anyOf[1]'"),
        ({"$defs": {"d": {"not": {}}}, "properties": {"a": {"$ref": "#/$defs/d"}}}, "$defs.d'"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "schema'"),
        ({"type": "integer", "multipleOf": 999_983}, "schema.multipleOf'"),
        ({"type": "string", "pattern": "(?=a)"}, "schema'"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "schema'"),
        ({"enum": ["x" * 70_000]}, "schema'"),
        ({"enum": list(range(6000))}, "schema'"),
        (nested(MOST_DEPTH), "schema.properties.a.properties"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_its_place(
    bundled: Engine, schema: dict[str, Any], place: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        answer(bundled, strictly(schema))
    assert place in str(refused.value)
    assert bundled.status().state == "ready"


def test_without_strict_it_is_enforced_as_far_as_it_can_be(bundled: Engine) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "maxItems": 3, "uniqueItems": True}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text, _ = answer(bundled, constraint_from({"response_format": named}))
    assert all(isinstance(value, bool) for value in json.loads(text))


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "(a"},
        {"guided_regex": "(a{1000}){1000}"},
        {"guided_grammar": "start: nothing"},
        {"guided_grammar": "start: <|image_pad|>"},
        {"guided_grammar": "start: " + '("a"|"b")? ' * 1400},
    ],
)
def test_what_does_not_compile_is_refused_by_its_field(
    bundled: Engine, fields: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest, match=next(iter(fields))):
        answer(bundled, constraint_from(fields))
    assert bundled.status().state == "ready"


def test_what_breaks_later_ends_that_answer_in_words(bundled: Engine) -> None:
    constraint = constraint_from({"guided_grammar": 'start: "abcdefgh" <|image_pad|>'})
    with pytest.raises(BadRequest, match="guided_grammar"):
        answer(bundled, constraint)
    assert bundled.status().state == "ready"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a"] * 1001}, "guided_choice"),
        ({"guided_regex": "a" * 20_000}, "guided_regex"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "exclude"),
        ({"guided_choice": ["\ud800"]}, "guided_choice"),
    ],
)
def test_malformed_wishes_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        constraint_from(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "strict": True, "schema": PERSON},
            }
        },
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"structured_outputs": {"regex": "[ab]"}},
        {"structured_outputs": {"grammar": 'start: "a"'}},
    ],
)
def test_constraints_reach_the_engine_behind_another_server(fields: dict[str, Any]) -> None:
    far, constraint = ScriptedEngine("a"), constraint_from(fields)
    with serving(far) as client:
        base_url = (str(client.base_url).rstrip("/") + "/v1",)
        near = opened(Settings(engine="remote", base_url=base_url))
        params = SamplingParams(constraint=constraint)
        list(near.stream([Message("user", (TextPart("Hi"),))], params))
        near.close()
    assert far.requests[0][1].constraint == constraint


def test_over_http_the_answer_fits() -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "person", "strict": True, "schema": PERSON},
    }
    wrong = {"type": "json_schema", "json_schema": {"schema": {"not": {}}, "strict": True}}
    with serving(opened(Settings(model="bundled"))) as client:  # which closes it
        body = asking(response_format=form, temperature=1.5, max_tokens=100)
        whole = client.post(CHAT, json=body).json()
        refused = client.post(CHAT, json=asking(response_format=wrong))
    assert whole["choices"][0]["finish_reason"] == "stop"
    jsonschema.validate(json.loads(whole["choices"][0]["message"]["content"]), PERSON)
    assert refused.status_code == 400
    assert "response_format.json_schema.schema" in refused.json()["error"]["message"]


def form_of(example: Example) -> Constraint | None:
    """What the answer to an example must look like, if its words are those of a task."""
    task = task_of(example.text)
    return None if task is None else task.constraint()


def test_json_of_the_examples_parses_at_any_temperature(bundled: Engine) -> None:
    examples = [item for item in load_examples() if form_of(item) and item.lang == "en"]
    forms = [form_of(item) for item in examples]
    assert {json.loads(form.source)["type"] for form in forms if form} == {"array", "object"}
    for item, form in zip(examples, forms, strict=True):
        image = open_image(Path(item.images[0]), Settings())
        question = [Message("user", (ImagePart(image), TextPart(item.text)))]
        params = SamplingParams(**{**WILD, "temperature": 1.0}, seed=2, max_new_tokens=250,
                                constraint=form)  # fmt: skip
        chunks = list(bundled.stream(question, params))
        assert form is not None
        if chunks[-1].finish_reason == "stop":
            said = json.loads("".join(chunk.text for chunk in chunks))
            jsonschema.validate(said, json.loads(form.source))


def test_a_constraint_leaves_the_right_answer_as_it_is(bundled: Engine) -> None:
    prompts = json.loads((EXAMPLES / "prompts.json").read_text(encoding="utf-8"))
    known = {item["text"]: item["answer"] for item in prompts}
    item = next(item for item in load_examples() if form_of(item) and "invoice" in item.text)
    image = open_image(Path(item.images[0]), Settings())
    params = SamplingParams(
        temperature=0, presence_penalty=0, max_new_tokens=250, constraint=form_of(item)
    )
    question = [Message("user", (ImagePart(image), TextPart(item.text)))]
    assert "".join(chunk.text for chunk in bundled.stream(question, params)) == known[item.text]


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else SCHEMAS
    model = opened(Settings(model="bundled", max_batch=8))
    print(f"{all_fit(model, wanted)} of {wanted} answers are whole and validate; the others say so")
    model.close()
