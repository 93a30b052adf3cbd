"""Web pages of other sites: what their scripts and forms may do here, and may read.

Nothing that changes anything, except for the pages of `--cors-origin`: they may use the API. No
cookie counts for it, so no page acts in its visitor's name. Knows raw ASGI headers.
"""

from __future__ import annotations

from collections.abc import Collection

from qwen_vl.gate.hosts import Hosts, host_name
from qwen_vl.gate.proxies import Headers, header

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
ANY = "*"
_PORTS = (":80", ":443")  # which browsers leave out


class Origins:
    """The origins whose pages may use the API, as `--cors-origin` names them."""

    def __init__(self, named: Collection[str]) -> None:
        self._any = ANY in named
        self._named = {_normal(origin) for origin in named}

    def readable(self, headers: Headers) -> Headers:
        """What lets the page that sent `headers` read the answer; nothing where it may not.

        Never with leave to send cookies.
        """
        origin = header(headers, b"origin") or ""
        if self._any:
            allowed: Headers = [(b"access-control-allow-origin", b"*")]
        elif _normal(origin) in self._named:
            named = origin.encode("latin-1")
            # Answers differ by origin: no cache may give one page what was meant for another.
            allowed = [(b"access-control-allow-origin", named), (b"vary", b"origin")]
        else:
            return []
        return [*allowed, (b"access-control-expose-headers", b"*")]


def is_foreign(headers: Headers, host: str, hosts: Hosts) -> bool:
    """Whether a web page of another site sent this to `host`. Programs send no such headers."""
    origin = header(headers, b"origin")
    if origin is None:
        site = header(headers, b"sec-fetch-site")
        return site in ("cross-site", "same-site")
    place = origin.lower().partition("://")[2]
    if _shortened(place) == _shortened(host.lower()):
        return False
    # Behind a proxy that puts its own name into `Host`, the page's own origin is --allowed-host.
    return not hosts.is_ours(host_name(place) or "")


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks what a page may send."""
    return method == "OPTIONS" and header(headers, b"access-control-request-method") is not None


def preflight_headers(headers: Headers) -> Headers:
    """Yes to what it asks for: browsers send no key with it, the request itself has to."""
    asked = header(headers, b"access-control-request-headers") or "authorization, content-type"
    return [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", asked.encode("latin-1")),
        (b"access-control-allow-private-network", b"true"),
        (b"access-control-max-age", b"600"),
    ]


def _normal(origin: str) -> str:
    return _shortened(origin.lower().rstrip("/"))


def _shortened(place: str) -> str:
    for port in _PORTS:
        place = place.removesuffix(port)
    return place
