"""How often something may happen from one address. Knows addresses and the clock."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict

from qwen_vl.errors import TooOften

MAX_ADDRESSES = 10_000  # whose rates are remembered
WINDOW_S = 60.0


def network_of(address: str) -> str:
    """Who is counted: an IPv4 address itself, or the /64 network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


class RateLimit:
    """A bucket of `per_minute` for each address, which fills evenly."""

    def __init__(self, per_minute: int, what: str = "requests") -> None:
        self._most, self._what = float(per_minute), what
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (left, when in s)
        self._lock = threading.Lock()

    def take(self, address: str) -> None:
        """Takes one. Raises TooOften with the seconds until there is one again."""
        with self._lock:
            left = self._change(address, -1)
        if left < 0:
            error = TooOften(
                f"More than {self._most:.0f} {self._what} a minute from one address: wait a moment."
            )
            error.retry_after_s = max(1, round(-left * WINDOW_S / self._most + 0.5))
            raise error

    def give_back(self, address: str) -> None:
        """Undoes one `take`."""
        with self._lock:
            self._change(address, 1)

    def _change(self, address: str, by: int) -> float:
        """What is left afterwards. Below 0 nothing was taken, and that is how much is missing."""
        key, now_s = network_of(address), time.monotonic()
        left, since_s = self._buckets.pop(key, (self._most, now_s))
        left = min(self._most, left + (now_s - since_s) * self._most / WINDOW_S)
        after = min(self._most, left + by)
        self._buckets[key] = (after if after >= 0 else left, now_s)
        while len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return after
