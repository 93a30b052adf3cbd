"""One upstream server, and what is known about it: its models, its health, its refusals.

Its address is shown without name and password, and a model that is a file without its folders.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx2
import openai

from qwen_vl.config import Settings
from qwen_vl.engine.remote.refusal import said_of
from qwen_vl.engine.remote.wire import (
    Garbled,
    client_of,
    contexts_of,
    credentials_of,
    models_of,
    shown_url,
    whole,
)

CONNECT_S = 5.0
LOOK_S = 10.0  # for one look, however slowly it answers
SHOWN_MODELS = 5  # of those that it serves, where another one is wanted


class Upstream:
    """One server. `url` may be shown to anybody."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = shown_url(url)
        self.client = client_of(
            url, settings.remote_key, openai.Timeout(settings.max_seconds, connect=CONNECT_S)
        )
        self._hidden = credentials_of(url, settings.remote_key)
        self.healthy = False
        self.error = ""
        self.models: tuple[str, ...] = ()
        self._contexts: dict[str, int] = {}
        self.running = 0
        self.refused: set[str] = set()  # request fields that it does not take

    async def look(self, wanted: str) -> None:
        """Whether it answers, and serves the model that is wanted if one is."""
        try:
            listed = await asyncio.wait_for(self._listed(), LOOK_S)
            self.models, self._contexts = models_of(listed), contexts_of(listed)
        except (asyncio.TimeoutError, TimeoutError):
            self.healthy, self.error = False, "it answers too slowly"
            return
        except Garbled:  # a web page, or JSON of something else
            self.healthy, self.error = False, "it answers, but not like an OpenAI server"
            return
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            self.healthy, self.error = False, self.said(error)
            return
        if wanted and self.models and wanted not in self.models:
            served = ", ".join(shown_model(model) for model in self.models[:SHOWN_MODELS])
            more = ", …" if len(self.models) > SHOWN_MODELS else ""
            self.healthy = False
            self.error = f"it serves {served}{more} and not {shown_model(wanted)}"
            return
        self.healthy, self.error = True, ""

    def model_to_ask(self, wanted: str) -> str:
        """The model's name as this server knows it."""
        return wanted or (self.models[0] if self.models else "default")

    def context_tokens(self, wanted: str) -> int | None:
        """Tokens of prompt and answer of the model to ask, where the server tells it."""
        return self._contexts.get(self.model_to_ask(wanted))

    def said(self, error: Exception) -> str:
        """An error of this server in one short line that anybody may see."""
        return said_of(error, self._hidden)

    async def _listed(self) -> dict[str, Any]:
        client = self.client.with_options(timeout=CONNECT_S)
        async with client.models.with_streaming_response.list() as response:
            return await whole(response.iter_bytes())


def shown_model(name: str) -> str:
    """A model's name; of a file's or folder's path only the last part.

    llama.cpp's server lists the path it was started with, vLLM that of a local folder.
    """
    is_path = re.match(r"[./~\\]|[A-Za-z]:[\\/]", name) or name.lower().endswith(
        (".gguf", ".safetensors", ".bin", ".pt", ".pth")
    )
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name if is_path else name
