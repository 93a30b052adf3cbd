"""A home of its own for what the hub's client and a start keep: imported before either is.

Processes that the tests start inherit it, those of pytest-xdist included.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "HF_HOME" not in os.environ:
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="qwen-vl-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

HOME = os.environ["HF_HOME"]
