"""Where a request comes from and which name it was sent to, whatever its headers claim.

Forwarding headers are believed from named proxies only. From everybody else they are dropped, so
that nothing behind the gate can believe them. Knows raw ASGI headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from qwen_vl.gate.hosts import Hosts, is_address

Headers = list[tuple[bytes, bytes]]

ANY = "*"  # every peer is a proxy: this server can be reached in no other way
_FORWARDING = (b"forwarded", b"x-real-ip", b"x-gradio-server")  # and all x-forwarded-*


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first header of this name (in lower case); None if there is none."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


class Proxies:
    """The proxies that are believed: addresses, networks such as 10.0.0.0/8, or "*"."""

    def __init__(self, named: Iterable[str]) -> None:
        self._any = ANY in named
        self._networks = [ipaddress.ip_network(name, strict=False) for name in named if name != ANY]

    def trust(self, address: str) -> bool:
        return self._any or self._named(address)

    def _named(self, address: str) -> bool:
        if not is_address(address):
            return False
        ip = ipaddress.ip_address(address)
        ip = (ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None) or ip
        return any(ip in network for network in self._networks)

    def client_of(self, peer: str, headers: Headers) -> str:
        """The client's address: of all hops, the last one that is not a trusted proxy."""
        if not self.trust(peer):
            return peer
        hops = ",".join(
            value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"
        )
        for hop in reversed([hop.strip() for hop in hops.split(",")]):
            address = _without_port(hop)
            if not is_address(address):
                return peer
            peer = address
            if not self._named(address):
                break
        return peer

    def host_of(self, peer: str, headers: Headers, hosts: Hosts) -> str | None:
        """The `Host` that the client asked for; None if it sent none."""
        forwarded = (header(headers, b"x-forwarded-host") or "").partition(",")[0].strip()
        # The share link's own name is harmless from anybody: it only ever leads back here.
        if forwarded and (self.trust(peer) or hosts.is_share(forwarded.lower())):
            return forwarded
        return header(headers, b"host")

    def scheme_of(self, peer: str, headers: Headers, scheme: str) -> str:
        told = (header(headers, b"x-forwarded-proto") or "").partition(",")[0].strip().lower()
        return told if self.trust(peer) and told in ("http", "https") else scheme


def without_forwarding(headers: Headers) -> Headers:
    """The headers without those that proxies add."""
    return [
        (name, value)
        for name, value in headers
        if not name.startswith(b"x-forwarded-") and name not in _FORWARDING
    ]


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
