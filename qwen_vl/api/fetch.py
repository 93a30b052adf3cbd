"""Pictures from the web, for servers that were told to fetch them.

A public address is resolved once per hop and then pinned, so that neither a redirect nor a second
answer of a name server leads into the server's own network. Bounded in bytes, hops and seconds.
Knows HTTP as a client and nothing of pictures.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
import safehttpx

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, Unsupported
from qwen_vl.media.pictures import BYTES_PER_MB

MAX_HOPS = 4  # redirects that are followed
MAX_SECONDS = 15.0  # for one picture, all hops together
_REDIRECTS = (301, 302, 303, 307, 308)


async def fetch_image(url: str, settings: Settings) -> bytes:
    """The bytes behind an http(s) URL.

    Raises Unsupported unless the server allows it, BadRequest when the URL does not lead to a
    public server that answers in time, and TooLarge.
    """
    if not settings.allow_image_urls:
        raise Unsupported(
            "This server does not fetch pictures from the web: send them as data: URIs, or start "
            "it with --allow-image-urls."
        )
    try:
        with took_too_long(), anyio.fail_after(MAX_SECONDS):
            return await _follow(url, settings.max_image_mb)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise BadRequest(
            f"The picture cannot be fetched ({type(error).__name__}): check its address."
        ) from error


@contextmanager
def took_too_long() -> Iterator[None]:
    """A TimeoutError in here becomes a BadRequest."""
    try:
        yield
    except TimeoutError:
        raise BadRequest(
            f"The picture's server took longer than {MAX_SECONDS:.0f} seconds: send the picture "
            "as a data: URI."
        ) from None


async def _follow(url: str, limit_mb: float) -> bytes:
    for _ in range(MAX_HOPS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadRequest("A picture's address must begin with http:// or https://.")
        if "@" in parts.netloc or "%" in parts.netloc:
            raise BadRequest("A picture's address must hold no user name and no IPv6 zone.")
        address = await _public_address(parts.hostname)
        client = httpx.AsyncClient(
            transport=safehttpx.AsyncSecureTransport(address), trust_env=False
        )
        # Not compressed: a few kilobytes could unpack to gigabytes before they can be counted.
        plain = {"Accept-Encoding": "identity"}
        async with (
            client,
            client.stream("GET", url, headers=plain, timeout=MAX_SECONDS) as response,
        ):
            if response.status_code in _REDIRECTS and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status_code != 200:
                raise BadRequest(f"The picture's server answered {response.status_code}.")
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise BadRequest("The picture's server compresses its answer though told not to.")
            return await _read(response, limit_mb)
    raise BadRequest(f"The picture's address redirects more than {MAX_HOPS} times.")


async def _public_address(host: str) -> str:
    """One address of `host`. Raises BadRequest if any of them is not public: names can lie."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise BadRequest("The picture's address is not on the public internet.")
    return addresses[0]  # in the resolver's order, RFC 6724: what cannot be reached comes last


def _is_public(address: str) -> bool:
    if "%" in address:  # a zone: this machine's own links
        return False
    ip = ipaddress.ip_address(address)
    if any(ip in network for network in _RESERVED if network.version == ip.version):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:  # how networks without IPv4 reach all of it
            return _is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        # Only what is given out, and no other way to write an IPv4 address in it.
        return ip in _GIVEN_OUT and ip.is_global and not _is_isatap(ip)
    return ip.is_global and not ip.is_multicast


def _is_isatap(ip: ipaddress.IPv6Address) -> bool:
    """An IPv4 address in the last 32 bits, RFC 5214."""
    return int(ip) >> 32 & 0xFDFFFFFF == 0x00005EFE


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GIVEN_OUT = ipaddress.ip_network("2000::/3")  # all that IANA gives to the public internet
# IANA's registries of special-purpose addresses, as far as `is_global` lets them through in some
# version of Python, and blocks out of use. Teredo and 6to4 hold IPv4 addresses.
_RESERVED = tuple(
    ipaddress.ip_network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20"),
    )
)


async def _read(response: httpx.Response, limit_mb: float) -> bytes:
    refusal = TooLarge(f"The picture is larger than {limit_mb:g} MB.")
    limit_bytes = limit_mb * BYTES_PER_MB
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise refusal
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > limit_bytes:
            raise refusal
    return bytes(data)
