"""Request bodies on their way in: not too slow, not too large, and bounded in sum.

Knows ASGI's `receive` and the clock. Knows nothing of what bodies hold.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from qwen_vl.config import Settings
from qwen_vl.errors import Busy, TooLarge, TooSlow, UserError
from qwen_vl.media.pictures import BYTES_PER_MB

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

BODY = "qwen_vl.body"  # where a request's scope has its Body
BODY_IMAGES = 8  # pictures of the largest size that fit into one request; smaller ones, more
SILENT_S = 10.0  # without a byte
BASE_S = 30.0  # for any body, and a second more for each MIN_BYTES_PER_S
MIN_BYTES_PER_S = 16_000
FREE_BYTES = 65_536  # of each body, which do not count: text always gets in
LATE_S = 30.0  # after which an unfinished body makes room for others
_LEFT: Message = {"type": "http.disconnect"}


def body_limit(settings: Settings) -> int:
    """Bytes of the largest request: pictures of full size or a clip in base64, and the text."""
    pictures = settings.max_image_mb * min(settings.max_images, BODY_IMAGES)
    text = settings.max_prompt_chars * 12  # a character may be two \\uXXXX escapes
    media = max(pictures, settings.max_video_mb) * BYTES_PER_MB
    return int(media * 4 / 3) + text + BYTES_PER_MB


class Bodies:
    """All bodies that are in memory: at most `most_bytes` together."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._open: dict[Body, None] = {}  # in the order in which they came

    def open(self, receive: Receive, limit_bytes: float, counts: bool = True) -> Body:
        """`counts` is False for what goes to a file as it comes."""
        body = Body(self, receive, limit_bytes, counts)
        self._open[body] = None
        return body

    def make_room(self, newcomer: Body) -> bool:
        """Whether there is room, after bodies that have been coming for long were given up."""
        for body in list(self._open):
            if self.held_bytes <= self.most_bytes:
                break
            if body is not newcomer and body.is_late:
                body.give_up(_no_room())
        return self.held_bytes <= self.most_bytes

    def forget(self, body: Body) -> None:
        self._open.pop(body, None)


class Body:
    """One request's body. `refusal` tells why it is not read any further, if so."""

    def __init__(self, all_of: Bodies, receive: Receive, limit_bytes: float, counts: bool) -> None:
        self._all, self._receive = all_of, receive
        self._limit_bytes, self._counts = limit_bytes, counts
        self._start_s = time.monotonic()
        self._seen_bytes = self._held_bytes = 0
        self._is_whole = False
        self._waiting: anyio.CancelScope | None = None
        self.refusal: UserError | None = None

    @property
    def is_late(self) -> bool:
        """Whether it holds memory and should have come by now."""
        unfinished = not self._is_whole and self._held_bytes > 0
        return unfinished and time.monotonic() - self._start_s > LATE_S

    async def receive(self) -> Message:
        """ASGI's receive. Tells that the client has left when the body is refused."""
        if self._is_whole:  # nothing but its leaving is left to hear of
            return await self._receive()
        if self.refusal is None:
            message = await self._next()
            if self.refusal is None:
                return message
        return _LEFT

    async def _next(self) -> Message:
        message = _LEFT
        left_s = BASE_S + self._seen_bytes / MIN_BYTES_PER_S - (time.monotonic() - self._start_s)
        with anyio.move_on_after(min(SILENT_S, left_s)) as self._waiting:
            message = await self._receive()
        if self._waiting.cancelled_caught:
            self.refusal = self.refusal or TooSlow(
                "The request's body did not come in time: send it again over a faster connection."
            )
        self._waiting = None
        if message["type"] == "http.disconnect":
            self._is_whole = True
            return message
        self._seen_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._seen_bytes > self._limit_bytes:
            self.refusal = TooLarge(
                f"The request is larger than {self._limit_bytes / BYTES_PER_MB:.0f} MB."
            )
        elif self._counts:
            self._hold(self._seen_bytes - FREE_BYTES - self._held_bytes)
        return message

    def hold(self, more_bytes: int) -> None:
        """Counts what was fetched for this request, too. Raises Busy when there is no room."""
        self._hold(more_bytes)
        if self.refusal is not None:
            raise self.refusal

    def _hold(self, more_bytes: int) -> None:
        if more_bytes <= 0:
            return
        self._held_bytes += more_bytes
        self._all.held_bytes += more_bytes
        if not self._all.make_room(self):
            self.give_up(_no_room())

    def give_up(self, refusal: UserError) -> None:
        """Reads no further: whoever waits for more is told that the client has left."""
        self.refusal = self.refusal or refusal
        self.release()
        if self._waiting is not None:
            self._waiting.cancel()

    def release(self) -> None:
        """What it held in memory is gone."""
        self._all.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def close(self) -> None:
        """The request has been answered."""
        self.release()
        self._all.forget(self)


def _no_room() -> UserError:
    return Busy("Too many large requests are coming in: try again in a moment.")
