"""Starts the app with the bundled model, and `features.py` against it in its own environment.

The bundled model's own template knows no tools: here it has one in Qwen3-VL's form.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.running_app import ROOT, drain, started  # noqa: E402
from support.tool_templates import JSON_TEMPLATE  # noqa: E402

PYTHON = ROOT / ".venv-clients/bin/python"
MODEL = ROOT / "examples/tiny_model/model"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "qwen3-vl-tiny-demo"
        shutil.copytree(MODEL, model)
        (model / "chat_template.jinja").write_text(JSON_TEMPLATE, encoding="utf-8")
        with started("--mcp", "--model", str(model)) as (app, client):
            drain(app)
            base = str(client.base_url).rstrip("/")
            return subprocess.run([PYTHON, HERE / "features.py", base]).returncode


if __name__ == "__main__":
    sys.exit(main())
