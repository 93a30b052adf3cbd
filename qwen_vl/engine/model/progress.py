"""How far transformers is with reading weights; it shows a bar over them, which is hooked here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import transformers

from qwen_vl.engine.model.checkpoint import Report


@contextmanager
def reporting(report: Report, what: str) -> Iterator[None]:
    """Calls `report` with `what` after each tensor that is read in here. It may raise."""
    previous = transformers.utils.logging.set_tqdm_hook(_hook(report, what))
    try:
        yield
    finally:
        transformers.utils.logging.set_tqdm_hook(previous)


def _hook(report: Report, what: str) -> Callable[..., Any]:
    class Bar:
        def __init__(self, items: Any = None, **options: Any) -> None:
            self._items, self._total = items, options.get("total")

        def __iter__(self) -> Any:
            total = self._total or len(self._items)
            for count, item in enumerate(self._items, 1):
                yield item
                report(what, count / max(1, total))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_args, **_kwargs: None  # set_postfix, update, close ...

    return lambda _factory, args, kwargs: Bar(*args, **kwargs)
