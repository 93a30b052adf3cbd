"""A stand-in for the package `spaces` on a ZeroGPU Space, which enforces that package's rules.

Written after the source of `spaces` 0.51.3. It needs no GPU: a model that was put on "cuda" stays
where it is, but runs only inside of a decorated call. The file at $STAND_IN tells, as JSON, how
many seconds of quota are left and after how many calls are killed, and keeps what was asked for.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.context import LocalContext

assert os.environ["SPACES_ZERO_GPU"] == "true"
assert not torch.cuda.is_initialized(), "spaces must be imported before CUDA is used"

_fork = multiprocessing.get_context("fork")
_importer = threading.get_ident()
_inside = _launched = False
_placed: list[torch.nn.Module] = []
_decorated: list[Callable[..., Any]] = []
_to, _launch = torch.nn.Module.to, gr.Blocks.launch


def _outside(*_: object) -> None:
    assert _inside, "CUDA was used outside of @spaces.GPU"


def _place(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    if args != ("cuda",):
        return _to(module, *args, **kwargs)
    assert not _launched, "what is put on CUDA after the launch is not packed"
    assert threading.get_ident() == _importer, "torch's modes are those of the importing thread"
    for part in module.modules():
        part.register_forward_pre_hook(_outside)
    _placed.append(module)
    return module


def _pack_and_launch(*args: Any, **kwargs: Any) -> Any:
    global _launched
    assert _placed, "nothing is on CUDA at the launch"
    assert _decorated, "no function is decorated at the launch"
    _launched = True
    return _launch(*args, **kwargs)


torch.nn.Module.to = _place  # type: ignore[assignment,method-assign]
gr.Blocks.launch = _pack_and_launch  # type: ignore[method-assign]


def _error(title: str, message: str) -> gr.Error:
    return gr.Error(message, title=title, print_exception=False)


def GPU(duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decorator, for functions that yield."""

    def decorate(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(*args: Any) -> Iterator[Any]:
            seconds = duration(*args)
            _schedule(seconds)
            yield from _run(task, pickle.dumps(args), seconds)

        _decorated.append(task)
        return call

    return decorate


def _schedule(seconds: int) -> None:
    file = Path(os.environ["STAND_IN"])
    told = json.loads(file.read_text())
    request = LocalContext.request.get(None)
    visitor = request.headers.get("x-ip-token") if request else None
    file.write_text(json.dumps({**told, "asked_s": seconds, "visitor": visitor}))
    if seconds > told.get("left_s", 1e9):
        message = f"You have exceeded your quota ({seconds}s requested vs. {told['left_s']}s left)."
        raise _error("ZeroGPU quota exceeded", message)


def _run(task: Callable[..., Iterator[Any]], args: bytes, seconds: float) -> Iterator[Any]:
    results, stop = _fork.SimpleQueue(), _fork.Event()
    process = _fork.Process(target=_work, args=(task, args, results, stop), daemon=True)
    process.start()
    told = json.loads(Path(os.environ["STAND_IN"]).read_text())
    killer = threading.Timer(told.get("kill_s", seconds), process.kill)
    killer.start()
    threading.Thread(target=_when_dead, args=(process, results), daemon=True).start()
    try:
        while (item := pickle.loads(results.get())) is not StopIteration:
            if isinstance(item, BaseException) and getattr(item, "escaped", False):
                raise _error("ZeroGPU worker error", type(item).__name__)
            if item is InterruptedError:
                raise _error("ZeroGPU worker error", "GPU task aborted")
            yield item
    finally:
        stop.set()
        process.join()
        killer.cancel()


def _when_dead(process: Any, results: Any) -> None:
    process.join()
    if process.exitcode == -signal.SIGKILL:
        results.put(pickle.dumps(InterruptedError))


def _work(task: Callable[..., Iterator[Any]], args: bytes, results: Any, stop: Any) -> None:
    global _inside
    _inside = True
    items = task(*pickle.loads(args))
    try:
        for item in items:
            if stop.is_set():
                items.close()
                break
            results.put(pickle.dumps(item))
    except Exception as error:  # noqa: BLE001 - told by its name, as there
        error.escaped = True  # type: ignore[attr-defined]
        results.put(pickle.dumps(error))
    results.put(pickle.dumps(StopIteration))
