"""Gradio writes no stub files for editors beside the components that are imported."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest


def test_a_component_is_imported_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a_component_of_ones_own"
    (tmp_path / f"{name}.py").write_text(
        "import gradio as gr\n\n\nclass Words(gr.Textbox):\n    EVENTS = ['change']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    assert issubclass(module.Words, gr.Textbox)
    assert callable(module.Words.change)
    assert not (tmp_path / f"{name}.pyi").exists()
