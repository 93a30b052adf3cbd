"""JSON schemas made at random, of what models are asked for: objects, lists, unions, references."""

from __future__ import annotations

import random
from typing import Any

_LEAVES = ("string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format")


def random_schema(seed: int) -> dict[str, Any]:
    """The same for the same seed. At most three levels deep; some parts are shared by reference."""
    pick = random.Random(seed)
    schema = _node(pick, 3)
    if "#/$defs/shared" in str(schema):
        schema["$defs"] = {"shared": _leaf(pick)}
    return schema


def _node(pick: random.Random, depth: int) -> dict[str, Any]:
    kind = pick.choice(("object", "object", "array", "anyOf", "ref", "leaf")) if depth else "leaf"
    if kind == "object":
        names = pick.sample(["a", "b c", "größe", "id", 'q"uote', "x-y"], pick.randint(0, 4))
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: _node(pick, depth - 1) for name in names},
            "required": [name for name in names if pick.random() < 0.7],
        }
        if pick.random() < 0.7:
            schema["additionalProperties"] = False
        return schema
    if kind == "array":
        least = pick.randint(0, 2)
        bounds = {"minItems": least, "maxItems": least + pick.randint(0, 3)}
        return {"type": "array", "items": _node(pick, depth - 1), **bounds}
    if kind == "anyOf":
        return {"anyOf": [_node(pick, depth - 1) for _ in range(pick.randint(1, 3))]}
    if kind == "ref":
        return {"$ref": "#/$defs/shared"}
    return _leaf(pick)


def _leaf(pick: random.Random) -> dict[str, Any]:
    kind = pick.choice(_LEAVES)
    if kind == "string":
        least = pick.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + pick.randint(0, 9)}
    if kind in ("integer", "number"):
        least = pick.randint(-200, 200)
        return {"type": kind, "minimum": least, "maximum": least + pick.randint(0, 5000)}
    if kind == "enum":
        return {"enum": pick.sample(["red", "green", 1, 2.5, None, True, "ü\n", [1, "x"]], 3)}
    if kind == "const":
        return {"const": pick.choice(["only", 7, {"k": [1, 2]}])}
    if kind == "pattern":
        return {"type": "string", "pattern": pick.choice(["^[A-Z]{2}-[0-9]{3}$", "^a+b?$"])}
    if kind == "format":
        return {"type": "string", "format": pick.choice(["date", "time", "uuid", "ipv4"])}
    return {"type": kind}
