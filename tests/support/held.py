"""Holds the inference thread inside a pass, so that a test decides what it finds next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook

from qwen_vl.engine import Engine
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, TextPart
from support.until import PATIENCE_S

ONE_TOKEN = SamplingParams(temperature=0, max_new_tokens=1)  # ends without joining the batch


@contextmanager
def inference_held(engine: Engine) -> Iterator[None]:
    """Whatever is asked inside is seen by an idle engine's inference thread at one moment."""
    begun, over = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        begun.set()
        over.wait(PATIENCE_S)

    hook = register_module_forward_pre_hook(hold)
    try:
        answer = engine.stream([Message("user", (TextPart("Wait"),))], ONE_TOKEN, "held")
        assert begun.wait(PATIENCE_S), "the engine does not begin"
        hook.remove()  # only this one pass waits
        yield
    finally:
        hook.remove()
        over.set()
    list(answer)
