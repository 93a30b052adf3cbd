"""Which names this server answers to, so that no foreign name can be pointed at it (DNS rebinding).

Knows `Host` headers and the settings. Knows nothing of requests.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from qwen_vl.config import Settings

_HOST = re.compile(r"(?:\[(?P<ip6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]{1,253}))(?::\d{1,5})?")


def host_name(header: str) -> str | None:
    """A `Host` header -> its name or address in lower case, without the port; None if none."""
    found = _HOST.fullmatch(header.lower())
    if found is None or (found["ip6"] and not is_address(found["ip6"])):
        return None
    return found["ip6"] or found["name"].removesuffix(".") or None


def is_address(name: str) -> bool:
    """Whether this is an IPv4 or IPv6 address and no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Hosts:
    """The names of this server: local ones, its --host, the share link's, and --allowed-host.

    Addresses are always fine: a web page's name can be made to lead here, an address cannot.
    """

    def __init__(self, settings: Settings) -> None:
        machine = socket.gethostname().lower()
        self._local = {"localhost", machine, f"{machine}.local", settings.host.lower()}
        self._given = {name.lower() for name in settings.allowed_host}
        self._share = ""

    def share(self, url: str) -> None:
        """Takes the share link's host in, once it is known."""
        self._share = host_name(url.partition("://")[2].partition("/")[0]) or ""

    def allow(self, name: str) -> bool:
        """Whether requests may come for `name`, which `host_name` has made."""
        local = name in self._local or name.endswith(".localhost")
        patterns = {"*", f"*.{name.partition('.')[2]}"} & self._given
        return local or is_address(name) or self.is_ours(name) or bool(patterns)

    def is_ours(self, name: str) -> bool:
        """Whether this very name was given to this server, so that no page of others has it."""
        return self.is_share(name) or name in self._given

    def is_share(self, name: str) -> bool:
        """Whether this is the share link's host, which browsers reach over https."""
        return bool(name) and name == self._share
