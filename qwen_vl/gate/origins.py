"""Web pages of other sites: what their scripts and forms may do here, and may read.

Without an API key nothing that changes anything. With one, the API and no cookie. Knows raw ASGI
headers.
"""

from __future__ import annotations

from qwen_vl.gate.hosts import Hosts, host_name
from qwen_vl.gate.proxies import Headers, header

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PORTS = (":80", ":443")  # which browsers leave out
# Any page may read, as no cookie opens the API: the key in the header does.
READABLE: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
]


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
    """Yes to what it asks for: the request itself has to bring a key."""
    asked = header(headers, b"access-control-request-headers") or "authorization, content-type"
    return [
        *READABLE,
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", asked.encode("latin-1")),
        (b"access-control-allow-private-network", b"true"),
        (b"access-control-max-age", b"600"),
    ]


def _shortened(place: str) -> str:
    for port in _PORTS:
        place = place.removesuffix(port)
    return place
