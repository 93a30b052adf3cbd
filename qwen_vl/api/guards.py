"""Who may call: API keys, a rate limit per address, and an API that is off on public addresses.

Knows settings and the headers of a request. Knows nothing of what is asked.
"""

from __future__ import annotations

import hashlib
import hmac

from fastapi import Request

from qwen_vl.config import Settings
from qwen_vl.errors import Forbidden, Unauthorised
from qwen_vl.gate.rates import RateLimit, network_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
WRONG_KEYS_PER_MINUTE = 60  # from one address; one more is told to wait


def is_public(settings: Settings) -> bool:
    """Whether people on other machines can reach the server, with or without a login."""
    return settings.share or bool(settings.auth) or settings.host.strip("[]") not in _LOOPBACK


def api_is_open(settings: Settings) -> bool:
    """Whether the HTTP API answers at all (with a key, if there are any)."""
    if settings.api == "auto":
        return bool(settings.api_key) or not is_public(settings)
    return settings.api == "on"


class Guards:
    """Lets a request in or raises Forbidden, Unauthorised or TooOften."""

    def __init__(self, settings: Settings) -> None:
        self._is_open = api_is_open(settings)
        self._keys = [_digest(key) for key in settings.api_key]
        self._rate = RateLimit(settings.rate_limit) if settings.rate_limit else None
        self._wrong = RateLimit(WRONG_KEYS_PER_MINUTE, "calls without a valid key")

    def __call__(self, request: Request) -> None:
        if not self._is_open:
            raise Forbidden(
                "The API is off because this server is public and has no keys: start it with "
                "--api-key KEY (on a Space: the secret QWEN_VL_API_KEY), or with --api on to let "
                "everybody in."
            )
        if self._rate:  # before the key is looked at: wrong ones count, too
            self._rate.take(_address(request))
        if self._keys and not self._has_key(request):
            self._wrong.take(_address(request))
            raise Unauthorised("Send a valid key in the header 'Authorization: Bearer <key>'.")

    def owner(self, request: Request) -> str:
        """The owner of sessions and caches: a name for the caller. Never the key itself.

        Without keys it is who calls from the same address.
        """
        name = f"address {network_of(_address(request))}"
        return self.key_owner(request) or _digest(name).hex()

    def key_owner(self, request: Request) -> str:
        """The owner of jobs: a name for the key, from any address. "" without keys."""
        return _digest(_given_key(request)).hex() if self._keys else ""

    def _has_key(self, request: Request) -> bool:
        given = _digest(_given_key(request))
        # All are compared, each in constant time, so that nothing can be learnt from the clock.
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _given_key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
