"""The one interface between a conversation and a model, and the way to open one.

An engine turns messages into text. It knows nothing of Gradio, HTTP or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwen_vl.config import Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Cost, EngineStats, EngineStatus, Message

__all__ = ["Answer", "Engine", "open_engine"]


class Engine(Protocol):
    """Turns messages into text deltas; the last chunk carries finish_reason and usage.

    All methods may be called from any thread, several at once.
    """

    @property
    def model_id(self) -> str: ...

    def status(self) -> EngineStatus:
        """What is running, at once."""
        ...

    def stats(self) -> EngineStats:
        """How much it is doing, at once."""
        ...

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        """Raises StillLoading, ModelUnavailable, Busy, Unsupported or TooLarge at once.

        What one `scope` (an API key, a page session) leaves in caches serves that scope alone;
        only what the server itself sets is shared.
        """
        ...

    def count(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Cost | None:
        """What `stream` would cost, without any work on the model; None where it is not known.

        What is too long is counted, too. Raises what `stream` raises before it decodes a picture,
        except ContextExceeded and Busy.
        """
        ...

    def drain(self, seconds: float) -> None:
        """Refuses new requests from now on, and waits at most `seconds` for the others to end."""
        ...

    def close(self) -> None:
        """Ends running answers as cancelled and gives the memory back."""
        ...


def open_engine(settings: Settings) -> Engine:
    """Returns at once; the model loads in the background and `status` tells how far it is.

    Except on ZeroGPU, where the model has to be loaded before the page is launched.
    """
    if settings.engine == "remote":
        from qwen_vl.engine.remote.engine import RemoteEngine  # openai is imported only here

        return RemoteEngine(settings)
    if settings.engine == "ray":
        from qwen_vl.engine.ray.engine import RayEngine  # ray is imported only here

        return RayEngine(settings)
    if settings.engine == "zero":
        from qwen_vl.engine.zero import ZeroEngine  # spaces is imported only here

        return ZeroEngine(settings)
    from qwen_vl.engine.local.engine import LocalEngine  # torch is imported only here

    return LocalEngine(settings)
