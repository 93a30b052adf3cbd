"""Starts the app with the bundled model, and `features.py` against it in its own environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.running_app import ROOT, drain, started  # noqa: E402

PYTHON = ROOT / ".venv-clients/bin/python"

if __name__ == "__main__":
    with started("--mcp") as (app, client):
        drain(app)
        base = str(client.base_url).rstrip("/")
        sys.exit(subprocess.run([PYTHON, HERE / "features.py", base]).returncode)
