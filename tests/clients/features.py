"""Client libraries against a running server: a table of client x feature.

    make test-clients

Every cell is asserted on its shape, not on its wit: the bundled model answers. A cell is "ok", "-"
where the client has no such feature, or what went wrong. Ends with status 1 if anything went wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chats
import others
from asked import BASE, PICTURE, Cells

HERE = Path(__file__).parent
FEATURES = ("whole", "picture", "stream", "parse", "tools", "responses")


def in_python(make: Callable[[], Cells]) -> dict[str, str]:
    try:
        cells = make()
    except Exception as error:  # noqa: BLE001 - a client may raise anything; the table tells it
        return {feature: _short(error) for feature in FEATURES}
    return {feature: _cell(cell) for feature, cell in cells.items()}


def in_node(name: str) -> dict[str, str]:
    """The cells that `clients.mjs` prints as one JSON object."""
    done = subprocess.run(
        ["node", "clients.mjs", name, BASE, str(PICTURE)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        return {feature: _short(done.stderr) for feature in FEATURES}
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


def _cell(cell: Callable[[], object]) -> str:
    try:
        cell()
    except Exception as error:  # noqa: BLE001 - as above
        return _short(error)
    return "ok"


def _short(error: object) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> int:
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    table = {make.__name__: in_python(make) for make in (*chats.CLIENTS, *others.CLIENTS)}
    table |= {name: in_node(name) for name in ("openai_node", "ai_sdk")}
    print("| client | " + " | ".join(FEATURES) + " |")
    print("|---" * (1 + len(FEATURES)) + "|")
    wrong = []
    for client, cells in table.items():
        row = [cells.get(feature, "-") for feature in FEATURES]
        wrong += [f"{client}, {f}: {cell}" for f, cell in cells.items() if cell not in ("ok", "-")]
        print(f"| {client} | " + " | ".join(c if c in ("ok", "-") else "WRONG" for c in row) + " |")
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
