"""Tools that a model may call: a request's fields -> the tools, and the form of calls that it must
write.

Reads OpenAI's fields, the older `functions` included. Knows the two forms in which Qwen's models
write a call. Knows nothing of tokens or of HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qwen_vl.constraint import Constraint, json_schema
from qwen_vl.errors import BadRequest, Unsupported

MOST_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TAGS = ("<tool_call>", "</tool_call>")
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# A text in the XML form: all but what could begin an end tag.
_XML_TEXT = r"/([^<]|<+[^<\/])*/"

Format = Literal["json", "xml"]


@dataclass(frozen=True)
class Tool:
    """`definition` is OpenAI's object of a function, as JSON text."""

    name: str
    definition: str

    @property
    def function(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.definition)
        return found

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of its arguments; an object without any where it has none."""
        return self.function.get("parameters") or {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tools:
    """What an answer may call. `must_call` is true, or the one tool that it has to call."""

    tools: tuple[Tool, ...]
    must_call: bool | str = False
    parallel: bool = True  # several calls in one answer

    @property
    def objects(self) -> list[dict[str, Any]]:
        """As OpenAI's API and chat templates take them."""
        return [{"type": "function", "function": tool.function} for tool in self.tools]

    @property
    def choice(self) -> str | dict[str, Any]:
        """As OpenAI's API takes it."""
        if isinstance(self.must_call, str):
            return {"type": "function", "function": {"name": self.must_call}}
        return "required" if self.must_call else "auto"

    @property
    def repeats(self) -> bool:
        """Whether a further call may follow one."""
        return self.parallel and not isinstance(self.must_call, str)


def tools_from(raw: Mapping[str, Any]) -> Tools | None:
    """The tools of a request; None where there are none, or none may be called.

    Raises BadRequest or Unsupported that names the field.
    """
    given, place = raw.get("tools"), "tools"
    if given is None and raw.get("functions") is not None:
        functions, place = raw["functions"], "functions"
        if not isinstance(functions, list):
            raise BadRequest("'functions' must be a list.")
        given = [{"type": "function", "function": one} for one in functions]
    parallel = raw.get("parallel_tool_calls")
    if not isinstance(parallel, bool | None):
        raise BadRequest("'parallel_tool_calls' must be true or false.")
    if not isinstance(given, list | None):
        raise BadRequest(f"'{place}' must be a list.")
    if len(given or ()) > MOST_TOOLS:
        raise BadRequest(f"'{place}' takes at most {MOST_TOOLS} tools.")
    tools = tuple(_tool(one, f"{place}[{i}]") for i, one in enumerate(given or ()))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest(f"'{place}' names a tool twice.")
    wish, field = raw.get("tool_choice"), "tool_choice"
    if wish is None:
        wish, field = raw.get("function_call"), "function_call"
    must_call = _choice(wish, field, names)
    if not tools or must_call is None:
        return None
    # The older form has a place for one call only.
    several = parallel is not False and place == "tools"
    return Tools(tools, must_call, several)


def _tool(raw: Any, place: str) -> Tool:
    if not isinstance(raw, Mapping):
        raise BadRequest(f"'{place}' must be an object.")
    if raw.get("type", "function") != "function":
        raise Unsupported(f"'{place}.type' can only be function here.")
    function = raw.get("function")
    if not isinstance(function, Mapping):
        raise BadRequest(f"'{place}.function' must be an object.")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(
            f"'{place}.function.name' must be 1 to 64 letters, digits, '_', '-' and '.'."
        )
    if not isinstance(function.get("description"), str | None):
        raise BadRequest(f"'{place}.function.description' must be a string.")
    if not isinstance(function.get("strict"), bool | None):
        raise BadRequest(f"'{place}.function.strict' must be true or false.")
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise BadRequest(f"'{place}.function.parameters' must be a JSON schema: an object.")
    if (parameters or {}).get("type", "object") != "object":
        raise BadRequest(f"'{place}.function.parameters.type' must be object.")
    if not isinstance((parameters or {}).get("properties"), Mapping | None):
        raise BadRequest(f"'{place}.function.parameters.properties' must be an object.")
    kept = {key: value for key, value in function.items() if value is not None}
    checked = json_schema(kept, place=f"{place}.function")  # within its bounds, valid Unicode
    if any("<" in key for key in keys_in(kept)):  # they could become control tokens
        raise BadRequest(f"'{place}.function' has a key with '<': use another name.")
    return Tool(name, checked.source)


def _choice(raw: Any, place: str, names: list[str]) -> bool | str | None:
    """True, False, or a name; None: nothing may be called."""
    if raw is None or raw == "auto":
        return False
    if raw == "none":
        return None
    if raw == "required" and place == "tool_choice":
        wish: bool | str = True
    else:
        named = raw.get("function", raw) if isinstance(raw, Mapping) else None
        wish = named.get("name", "") if isinstance(named, Mapping) else ""
        if not isinstance(wish, str) or not wish:
            raise BadRequest(f"'{place}' must be none, auto, required or one function by name.")
        if wish not in names:
            raise BadRequest(f"'{place}' names a tool that the request does not have.")
    if not names:
        raise BadRequest(f"'{place}' needs tools to choose from.")
    return wish


def keys_in(value: Any) -> Iterator[str]:
    """The keys of all objects in a JSON value."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield from map(str, one)
            left += one.values()
        elif isinstance(one, list):
            left += one


def arguments_object(text: str) -> dict[str, Any]:
    """The arguments of a call as templates take them, whatever a client sends for them."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any("<" in key for key in keys_in(found)):
        return {"arguments": text}
    return found


# --- what a call must look like ---


def call_constraint(
    tools: Tools, written_as: Format, answer: Constraint | None = None
) -> Constraint:
    """The grammar of an answer that is one call, or several; or else `answer`, which is JSON."""
    wanted = [tool for tool in tools.tools if tools.must_call in (False, True, tool.name)]
    rules: list[str] = []
    for number, tool in enumerate(wanted):
        rules += (_json_call if written_as == "json" else _xml_call)(tool, f"c{number}")
    names = " | ".join(f"c{number}" for number in range(len(wanted)))
    more = ' ("\\n" one)*' if tools.repeats else ""
    head = ["start: calls" if answer is None else "start: calls | answer", f"calls: one{more}"]
    head.append(f'one: <tool_call> "\\n" ({names}) "\\n" </tool_call>')
    if answer is not None:
        schema = json.loads(answer.source or '{"type": "object"}')
        head.append(f"answer: %json {json.dumps(schema | _options(lenient=not answer.strict))}")
    place = "tools" if answer is None else answer.place
    return Constraint("grammar", "\n".join([*head, *rules]), place=place, tags=TAGS)


def _json_call(tool: Tool, rule: str) -> list[str]:
    parameters = tool.parameters
    call = {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": _object(parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return [f"{rule}: {_inline(tool, call)}"]


def _xml_call(tool: Tool, rule: str) -> list[str]:
    parameters = tool.parameters
    required = parameters.get("required") or ()
    places, rules = [], []
    for number, (key, schema) in enumerate((parameters.get("properties") or {}).items()):
        name = f"{rule}p{number}"
        places.append(f"{name}{'' if key in required else '?'}")
        opening, end = json.dumps(f"<parameter={key}>\n"), json.dumps("\n</parameter>\n")
        rules.append(f"{name}: {opening} {name}v {end}")
        rules.append(f"{name}v: {_xml_value(tool, schema)}")
    start, end = json.dumps(f"<function={tool.name}>\n"), json.dumps("</function>")
    return [f"{rule}: {' '.join([start, *places, end])}", *rules]


def _xml_value(tool: Tool, schema: Any) -> str:
    if not is_text(schema):
        return _inline(tool, schema)
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return " | ".join(map(json.dumps, choices)) or _XML_TEXT


def is_text(schema: Any) -> bool:
    """Whether a parameter is a text, which the XML form writes without quotes."""
    if not isinstance(schema, Mapping):
        return False
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return bool(values) and all(isinstance(one, str) and "<" not in one for one in values)
    return schema.get("type") == "string"


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", **schema}


def _inline(tool: Tool, schema: Any) -> str:
    """A schema within a grammar; what it refers to stands at the root of the parameters."""
    schema = schema if isinstance(schema, Mapping) else {}
    shared = {
        key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters
    }
    options = _options(lenient=not tool.function.get("strict"))
    return "%json " + json.dumps({**shared, **schema, **options})


def _options(*, lenient: bool) -> dict[str, Any]:
    return {"x-guidance": {**_COMPACT, "lenient": lenient, "coerce_one_of": lenient}}
