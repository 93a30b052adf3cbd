"""Ports for servers that a test starts, also a second time."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody has now, from a range of many thousands: nobody else gets it soon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
