"""Gradio is imported without writing what editors read: a third of its import otherwise.

At every import it parses each of its components' sources to write a stub file beside it. Knows that
one function of Gradio; if it is no longer there, nothing is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

WRITER = "gradio.component_meta"


class _WithoutStubs(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == WRITER else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def without(module: ModuleType) -> None:
            execute(module)
            module.__dict__["create_or_modify_pyi"] = lambda *_: None

        spec.loader.exec_module = without  # type: ignore[method-assign]
        return spec


def leave_out() -> None:
    """From now on in this process; where Gradio is imported already, nothing changes."""
    sys.meta_path.insert(0, _WithoutStubs())
