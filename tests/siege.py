"""`python tests/siege.py`: what hostile requests cost everybody else.

Sends each hostile request alone, then sixteen clients of all kinds at once, to the app with the
bundled model. Meanwhile a process of its own asks `/health` and a short text question.
Prints for each attack how long `/health` waited at worst, how much later the question's first token
came than on the idle server (median, and at worst), and by how much memory grew, with that of the
decoding processes. Goal: 1 s, 3 times, 600 MB. It measures: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image
from support.clip_files import frame, write
from support.pictures import as_uri, encoded
from support.running_app import drain, started

CLIENTS = 16
ATTACKERS_NICE = 15
GOAL = {"health_s": 1.0, "ratio": 3.0, "memory_mb": 600.0}
LOOK_S = 0.05  # between two looks at the memory
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "stream": True}

Attack = Callable[[httpx.Client], object]


# --- the measuring process ---


def probe(url: str) -> None:
    """Asks until its standard input ends; prints the seconds that each call took, as JSON."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    health_s: list[float] = []

    def look() -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            while not over.is_set():
                health_s.append(seconds_of(lambda: client.get("/health")))
                over.wait(LOOK_S)

    looking = threading.Thread(target=look)
    looking.start()
    ttft_s: list[float] = []
    with httpx.Client(base_url=url, timeout=120) as client:
        while not over.is_set():
            ttft_s.append(seconds_of(lambda: first_token(client)))
            over.wait(LOOK_S)
    looking.join()
    print(json.dumps({"health_s": health_s, "ttft_s": ttft_s}))


def seconds_of(call: Callable[[], object]) -> float:
    started_s = time.monotonic()
    call()
    return time.monotonic() - started_s


def first_token(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=QUESTION) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if '"content": "' in line or '"content":"' in line:
                return


@dataclass(frozen=True)
class Seen:
    """What the others saw during an attack."""

    health_s: float
    ttft_s: float  # the median
    ttft_worst_s: float
    memory_mb: float  # the most, of the server and its processes


@contextlib.contextmanager
def watched(url: str, server: psutil.Process) -> Iterator[list[Seen]]:
    """Measures while the body runs; then the list holds what was seen."""
    seen: list[Seen] = []
    command = [sys.executable, __file__, "--probe", url]
    prober = subprocess.Popen(command, stdin=-1, stdout=-1, cwd=Path(__file__).parent, text=True)
    before_mb, most_mb, over = memory_mb(server), [0.0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            most_mb[0] = max(most_mb[0], memory_mb(server) - before_mb)

    looking = threading.Thread(target=look)
    looking.start()
    time.sleep(1.0)
    try:
        yield seen
        time.sleep(1.0)
    finally:
        over.set()
        looking.join()
        told, _ = prober.communicate("")
    calls = json.loads(told)
    ttft_s = calls["ttft_s"]
    seen.append(Seen(max(calls["health_s"]), statistics.median(ttft_s), max(ttft_s), most_mb[0]))


def memory_mb(server: psutil.Process) -> float:
    """Of the server and its processes.

    Those are forks of one that has everything loaded: pages that they share count once (PSS). The
    server shares nothing with them, and looking at its pages as closely would slow it down.
    """
    total = float(server.memory_info().rss)
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total / 2**20


# --- hostile input ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int, depth: int, kind: int, row_bytes: int) -> bytes:
    """A PNG of any size in a few kilobytes."""
    packer, rows = zlib.compressobj(9), bytes(row_bytes + 1)
    data = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose every scan goes over all blocks and changes nothing."""
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    bits = ""
    while blocks > 0:
        run = min(max(blocks, 16384), 32767)
        bits += "0" + format(run - 16384, "014b")
        blocks -= run
    bits += "1" * (-len(bits) % 8)
    coded = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    scan_head = struct.pack(">HB", 8, 1) + bytes([1, 0, 1, 63, 0])
    table = b"\xff\xc4" + struct.pack(">H", 20)
    return b"".join(
        (
            b"\xff\xd8\xff\xdb" + struct.pack(">H", 67) + b"\0" + bytes([1] * 64),
            b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + bytes([1, 0x11, 0]),
            table + bytes([0, 1, *[0] * 15, 0]),
            table + bytes([0x10, 1, *[0] * 15, 0xE0]),
            (b"\xff\xda" + scan_head + coded.replace(b"\xff", b"\xff\0")) * scans,
            b"\xff\xd9",
        )
    )


def tiff_of_floats(side_px: int) -> bytes:
    file = io.BytesIO()
    Image.new("F", (side_px, side_px)).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


def asking(*uris: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    question = [*content, {"type": "text", "text": "Describe the image."}]
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 8, **more}


def posting(body: dict[str, Any] | bytes) -> Attack:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-type": "application/json"}
    return lambda client: client.post("/v1/chat/completions", content=data, headers=head)


def of_many_parts(count: int) -> bytes:
    parts = b'{"type":"text","text":""},' * count + b'{"type":"text","text":"a"}'
    return b'{"messages":[{"role":"user","content":[' + parts + b"]}]}"


def half_sent(count: int, size_mb: int) -> Attack:
    """Bodies that stop in the middle, held open for a while."""

    def attack(client: httpx.Client) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                address = (client.base_url.host, client.base_url.port)
                link = stack.enter_context(socket.create_connection(address, timeout=5))
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                head += "Content-Type: application/json\r\nContent-Length: 130000000\r\n\r\n"
                with contextlib.suppress(OSError):  # the server hangs up: so much the better
                    link.sendall(head.encode())
                    for _ in range(size_mb):
                        link.sendall(b"a" * 2**20)
            time.sleep(5)

    return attack


def idle(count: int) -> Attack:
    def attack(client: httpx.Client) -> None:
        address = (client.base_url.host, client.base_url.port)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for _ in range(count):
                stack.enter_context(socket.create_connection(address, timeout=2))
            time.sleep(5)

    return attack


def of_page(function: int, data: list[Any]) -> Attack:
    """One call of the page's function with that number, as a forged browser makes it."""

    def attack(client: httpx.Client) -> None:
        session = f"siege{random.random()}"
        body = {"data": data, "fn_index": function, "session_hash": session}
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return
        query = {"session_hash": session}
        with client.stream("GET", "/gradio_api/queue/data", params=query) as response:
            for line in response.iter_lines():
                if "close_stream" in line or "process_completed" in line:
                    return

    return attack


def ticks(characters: int) -> str:
    """Ever longer runs of backticks."""
    found, size = [], 0
    for run in itertools.count(1):
        found.append("`" * run + "a")
        size += run + 1
        if size > characters:
            return "".join(found)
    raise AssertionError


def attacks() -> dict[str, Attack]:
    scans, square = as_uri(jpeg_of_scans(7900, 8000, 12_000)), Image.new("RGB", (4096, 4096))
    six = [as_uri(encoded(square)) for _ in range(6)]
    uri = b"data:image/png" + b";a=" * 33_000_000
    turn = {"role": "user", "content": [{"type": "text", "text": ""}], "metadata": None}
    with tempfile.TemporaryDirectory() as folder:
        large = (np.full((2160, 3840, 3), i, np.uint8) for i in range(240))
        clip = write(Path(folder) / "clip.mp4", large, fps=10).read_bytes()
        short = write(Path(folder) / "short.mp4", map(frame, range(60)), fps=10).read_bytes()

    def of_clip(data: bytes) -> dict[str, Any]:
        part = {"type": "video_url", "video_url": {"url": as_uri(data, "video/mp4")}}
        parts = [{**part, "every_s": 0.1}, {"type": "text", "text": "What happens?"}]
        return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8}

    image = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"'
    return {
        "a data: URI of 33 million parameters": posting(image + uri + b'"}}]}]}'),
        "six pictures of 16,384 tokens": posting(asking(*six, max_image_tokens=16_384)),
        "one picture of 16,384 tokens": posting(asking(six[0], max_image_tokens=16_384)),
        "a JPEG of 12,000 scans": posting(asking(scans)),
        "a TIFF of 63 million floats": posting(asking(as_uri(tiff_of_floats(7950)))),
        "a PNG of 63 million 16-bit pixels": posting(
            asking(as_uri(png_of_zeros(7900, 8000, 16, 0, 15_800)))
        ),
        "3.5 million empty parts": posting(of_many_parts(3_500_000)),
        "33 million objects in an unknown field": posting(
            b'{"messages":[],"x":[' + b"{}," * 33_000_000 + b"0]}"
        ),
        "ten half-sent bodies of 100 MB": half_sent(10, 100),
        "1,050 idle connections": idle(1050),
        "600 kB of backticks on the page": of_page(
            0, [{"text": ticks(600_000), "files": []}, [], ""]
        ),
        "a forged history of 40,000 turns": of_page(
            0, [{"text": "a", "files": []}, [turn] * 40_000, ""]
        ),
        "a 4K clip": posting(of_clip(clip)),
        "an ordinary clip": posting(of_clip(short)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--probe", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    parser.add_argument("--seconds", type=float, default=60, help="for all clients at once")
    args = parser.parse_args()
    if args.probe:
        probe(args.probe)
        return
    found = {name: attack for name, attack in attacks().items() if args.only in name}
    with started() as (process, client):
        drain(process)
        url, server = str(client.base_url), psutil.Process(process.pid)
        with watched(url, server) as alone:
            time.sleep(5)
        alone_s = alone[0].ttft_s
        print(f"idle: /health {alone[0].health_s:.2f} s, first token {alone_s * 1000:.0f} ms")
        for name, attack in found.items():
            with watched(url, server) as seen:
                took_s = seconds_of(lambda attack=attack: send(client, attack))  # type: ignore[misc]
            report(f"{name} ({took_s:.1f} s)", seen[0], alone_s)
        with watched(url, server) as seen:
            end_s = time.monotonic() + args.seconds
            threads = [
                threading.Thread(target=besiege, args=(url, list(found.values()), end_s, seed))
                for seed in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        report(f"{CLIENTS} clients at once", seen[0], alone_s)


def send(client: httpx.Client, attack: Attack) -> None:
    with contextlib.suppress(httpx.HTTPError, OSError):  # refused, or cut off: as it should be
        attack(client)


def besiege(url: str, found: list[Attack], end_s: float, seed: int) -> None:
    """Attacks until the end. Real attackers bring processors of their own: these go last here."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ATTACKERS_NICE)
    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=120) as client:
        while time.monotonic() < end_s:
            send(client, rng.choice(found))


def report(name: str, seen: Seen, alone_s: float) -> None:
    ratio, worst = seen.ttft_s / alone_s, seen.ttft_worst_s / alone_s
    kept = (
        seen.health_s < GOAL["health_s"]
        and ratio <= GOAL["ratio"]
        and seen.memory_mb < GOAL["memory_mb"]
    )
    print(
        f"{'kept  ' if kept else 'BROKEN'} {name}: /health {seen.health_s:.2f} s, first token "
        f"x{ratio:.1f} (worst x{worst:.1f} = {seen.ttft_worst_s:.2f} s), "
        f"+{seen.memory_mb:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
