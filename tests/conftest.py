"""Fixtures shared by the test files: checkpoints, engines and a running app."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# No test may reach for a model hub, and none may be slowed by looking for one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from support import home  # noqa: F401
from support.until import until

from qwen_vl import stubs
from qwen_vl.config import Settings
from qwen_vl.engine import Engine, open_engine

stubs.leave_out()  # as `app.py` does

# What takes longest begins first, so that no process is alone with it at the end: files with a
# browser, then these, then all others.
LONG = ("start_cache", "packaging", "tiny_model_web", "docs", "engine", "video", "job_store")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        if hasattr(item.module, "running_page"):  # type: ignore[attr-defined]
            return 0
        return 1 if item.path.stem.removeprefix("test_") in LONG else 2

    items.sort(key=place)


def opened(settings: Settings) -> Engine:
    """An engine that has finished loading, one way or the other."""
    engine = open_engine(settings)
    until(lambda: engine.status().state != "loading")
    return engine


@pytest.fixture(autouse=True)
def _ordinary_priority() -> Iterator[None]:
    """No test makes its process a real-time one, which would starve whatever runs beside it."""
    yield
    if hasattr(os, "sched_getscheduler"):
        assert os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR)


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of every supported family, by name."""
    from support.tiny_models import FAMILIES  # not in the process that only hands out the tests

    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name) for name, write in FAMILIES.items()}


@pytest.fixture(scope="session")
def bundled_engine() -> Engine:
    """The bundled model, loaded once for all tests."""
    engine = opened(Settings(model="bundled"))
    assert engine.status().state == "ready", engine.status().detail
    yield engine
    engine.close()
