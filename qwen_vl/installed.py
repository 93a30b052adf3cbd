"""Whether the libraries below this project load; where not, one line says what to install.

Knows what people meet on machines where something is missing. Knows nothing of the project and
imports none of it, so that it can speak before anything else is loaded.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What only some flags need.
OPTIONAL = {"ray": "-r examples/requirements-ray.txt", "spaces": "spaces"}


@contextmanager
def or_told() -> Iterator[None]:
    """Around imports: ends the process with that one line where a library is not there.

    Other errors keep their traceback, an import of a module that this project lacks included. No
    garbage is collected meanwhile: there is hardly any, and looking for it takes a sixth of the
    time.
    """
    gc.disable()
    try:
        _load_opencv()
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("qwen_vl"):
            raise
        if error.name in OPTIONAL:
            sys.exit(
                f"The module {error.name!r} is not installed: "
                f"run `pip install {OPTIONAL[error.name]}` with the same Python."
            )
        sys.exit(
            f"The module {error.name!r} is not installed: run `make run`, "
            "or `pip install -r requirements.txt` with the same Python."
        )
    finally:
        gc.enable()


def _load_opencv() -> None:
    """The one library that is often there and does not load, as it wants parts of a desktop."""
    try:
        importlib.import_module("cv2")
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        sys.exit(
            f"OpenCV does not load ({error}): run `make run`, or install opencv-python-headless, "
            "or what it misses (Debian: apt-get install libgl1 libglib2.0-0)."
        )
