"""Who may call: API keys, a rate limit per address, and an API that is off on public addresses.

Knows settings and the headers of a request. Knows nothing of what is asked.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict

from fastapi import Request

from qwen_vl.config import Settings, api_is_open
from qwen_vl.errors import Forbidden, TooOften, Unauthorised

MAX_ADDRESSES = 10_000  # whose rates are remembered
WINDOW_S = 60.0


class Guards:
    """Lets a request in or raises Forbidden, Unauthorised or TooOften."""

    def __init__(self, settings: Settings) -> None:
        self._is_open = api_is_open(settings)
        self._keys = [_digest(key) for key in settings.api_key]
        self._rate = RateLimit(settings.rate_limit) if settings.rate_limit else None

    def __call__(self, request: Request) -> None:
        if not self._is_open:
            raise Forbidden(
                "The API is off because this server is public and has no keys: start it with "
                "--api-key KEY, or with --api on to let everybody in."
            )
        if self._keys and not self._has_key(request):
            raise Unauthorised("Send a valid key in the header 'Authorization: Bearer <key>'.")
        if self._rate:
            self._rate.take(request.client.host if request.client else "")

    def owner(self, request: Request) -> str:
        """Who is calling: whose sessions and jobs these are. Never the key itself."""
        return _digest(_given_key(request)).hex() if self._keys else ""

    def _has_key(self, request: Request) -> bool:
        given = _digest(_given_key(request))
        # All are compared, each in constant time, so that nothing can be learnt from the clock.
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


def _given_key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


class RateLimit:
    """A bucket of `per_minute` requests for each address, which fills evenly."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (left, when in s)
        self._lock = threading.Lock()

    def take(self, address: str) -> None:
        """Takes one. Raises TooOften with the seconds until there is one again."""
        now_s = time.monotonic()
        with self._lock:
            left, since_s = self._buckets.pop(address, (self._most, now_s))
            left = min(self._most, left + (now_s - since_s) * self._most / WINDOW_S)
            enough = left >= 1
            self._buckets[address] = (left - 1 if enough else left, now_s)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        if not enough:
            error = TooOften(
                f"More than {self._most:.0f} requests a minute from one address: wait a moment."
            )
            error.retry_after_s = max(1, round((1 - left) * WINDOW_S / self._most + 0.5))
            raise error
