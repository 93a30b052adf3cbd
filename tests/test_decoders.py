"""What `decoders` promises: hostile files end in time, in memory, and alone.

The slow files here are JPEGs stored in hundreds of passes over many pixels, a few kB each.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import Abandoned, BadRequest, Busy, TooLarge, UserError
from qwen_vl.media.clips import extract_keyframes
from qwen_vl.media.decoders import MAX_WAITING, POOL, pictures
from qwen_vl.media.headers import read_header
from qwen_vl.media.limits import kept_size
from qwen_vl.media.pictures import load_image, open_image

SETTINGS = Settings()
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0  # for a busy machine; what is measured takes a second or so


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


SMALL = encode(Image.new("RGB", (64, 48), "red"))


def slow_jpeg(width: int, height: int, passes: int) -> bytes:
    """Grey, baseline DC and then the same empty AC pass again and again."""
    blocks = -(-width // 8) * -(-height // 8)
    bits, left = "", blocks
    while left:  # runs of blocks that end, 16,384 to 32,767 of them a code
        run = min(left, 32_767)
        bits += "0" + format(run - 16_384, "014b") if run >= 16_384 else ""
        left -= run if run >= 16_384 else left
    bits += "1" * (-len(bits) % 8)
    runs = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body

    tables = segment(0xDB, b"\0" + b"\1" * 64)
    tables += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    for table, symbol in ((0x00, 0), (0x10, 0xE0)):
        tables += segment(0xC4, bytes((table, 1)) + bytes(15) + bytes((symbol,)))
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    again = segment(0xDA, b"\1\1\0\1\x3f\0") + runs.replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + tables + first + again * passes + b"\xff\xd9"


SLOW = slow_jpeg(7900, 8000, 490)  # seconds of work


def wait_for(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def workers() -> list[psutil.Process]:
    """Processes of decoders, without those that they forked."""
    return [child for child in psutil.Process().children() if is_worker(child)]


def is_worker(child: psutil.Process) -> bool:
    try:
        return "qwen_vl.media.decoders.worker" in child.cmdline()
    except psutil.Error:  # it has just ended
        return False


def decoding() -> list[psutil.Process]:
    """What workers have forked: one for each file that is being decoded."""
    found: list[psutil.Process] = []
    for worker in workers():
        with contextlib.suppress(psutil.Error):
            found += [fork for fork in worker.children() if fork.status() != psutil.STATUS_ZOMBIE]
    return found


def strike(number: int) -> bool:
    """Sends a signal to what is at work on a file now, if anything is."""
    for fork in decoding():
        with contextlib.suppress(psutil.Error):
            if fork.cpu_times().user > 0.3:  # one that had not begun is just tried again
                fork.send_signal(number)
                return True
    return False


class Call(threading.Thread):
    """Runs in a thread and keeps the error."""

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__()
        self.run_this, self.error, self.result = run, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.run_this()
        except UserError as error:
            self.error = error


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    POOL.close()
    assert workers() == []
    assert not [thread for thread in threading.enumerate() if thread.name == "decoder-watch"]


def test_a_picture_that_takes_too_long_is_ended():
    with pytest.raises(TooLarge, match=r"longer than 0\.5 seconds"):
        load_image(SLOW, Settings(max_decode_seconds=0.5))
    assert decoding() == []
    assert load_image(SMALL, SETTINGS).size == (64, 48)


def test_more_passes_than_any_camera_writes_are_refused_at_once():
    with pytest.raises(TooLarge, match="500 passes"):
        load_image(slow_jpeg(64, 64, 600), SETTINGS)


def test_abandoning_ends_the_decoding_and_not_the_picture():
    picture = open_image(SLOW, SETTINGS)
    assert picture.size == kept_size(7900, 8000)
    calls = [Call(picture.decode) for _ in range(3)]  # all of them wait for the same pixels
    wait_for(decoding)
    picture.abandon()
    for call in calls:
        call.join(PATIENCE_S)
        assert isinstance(call.error, Abandoned)
    assert decoding() == []
    small = open_image(SMALL, SETTINGS)
    small.abandon()
    assert small.decode().getpixel((9, 9)) == (255, 0, 0)


def test_more_memory_than_is_given():
    rows = b"".join(b"\0" + bytes(12_000) for _ in range(4000))
    header = struct.pack(">IIBBBBB", 4000, 4000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )
    request = {"do": "decode", "format": "PNG", "orientation": 1, "settings": {}}
    for megabytes, told in ((16, []), (200, [4000, 4000])):
        seen: list = []
        call = Call(
            lambda megabytes=megabytes, seen=seen: POOL.run(
                request,
                data,
                what="picture",
                limit_s=30,
                memory_bytes=megabytes << 20,
                on_message=lambda header, _: seen.append(header.get("size")),
            )
        )
        call.join(PATIENCE_S)
        assert (call.error is None) == bool(told)
        assert seen[:1] == [told] * bool(told)
    bits = struct.pack("<I", 7899 | 7999 << 14)
    webp = b"RIFF\xff\0\0\0WEBPVP8L\xff\0\0\0\x2f" + bits + bytes(250)
    with pytest.raises(TooLarge, match="memory"):  # known before it is tried
        open_image(webp, SETTINGS)


def test_a_worker_that_dies_is_replaced():
    assert load_image(SMALL, SETTINGS)
    (idle,) = workers()
    idle.kill()
    wait_for(lambda: not idle.is_running() or idle.status() == psutil.STATUS_ZOMBIE)
    assert load_image(SMALL, SETTINGS)
    for number, error in ((signal.SIGKILL, TooLarge), (signal.SIGSEGV, BadRequest)):
        call = Call(open_image(SLOW, SETTINGS).decode)
        wait_for(partial(strike, number))
        call.join(PATIENCE_S)
        assert isinstance(call.error, error)
        assert load_image(SMALL, SETTINGS)


def test_so_many_may_wait_and_no_more():
    slow = [open_image(SLOW, SETTINGS) for _ in range(MAX_WAITING + 6)]
    calls = [Call(picture.decode) for picture in slow]
    # One is at work, or will be: when all come at once, it still stands in the line.
    wait_for(lambda: sum(isinstance(call.error, Busy) for call in calls) in (5, 6))
    wait_for(decoding)  # the worker may still have been starting
    assert len(decoding()) == 1  # large ones one by one
    for picture in slow:
        picture.abandon()
    for call in calls:
        call.join(PATIENCE_S)
    assert {type(call.error) for call in calls} == {Busy, Abandoned}


def test_pictures_do_not_wait_for_clips_and_stopping_ends_a_frame(tmp_path):
    path = tmp_path / "slow.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 4000, 4000, "yuvj420p"
        for index in range(3):
            packet = av.Packet(slow_jpeg(4000, 4000, 20_000))
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            out.mux(packet)
    stop = threading.Event()
    calls = [
        Call(lambda: extract_keyframes(path, "even", SETTINGS, should_stop=stop.is_set))
        for _ in range(4)
    ]
    wait_for(decoding)
    for _ in range(3):
        assert load_image(SMALL, SETTINGS)
    assert len(workers()) == 2
    stop.set()
    for call in calls:
        call.join(PATIENCE_S)
        assert call.result == []
    limited = Settings(max_extract_seconds=0.5)
    with pytest.raises(TooLarge, match="takes longer"):
        extract_keyframes(path, "even", limited)


def test_closing_ends_what_is_under_way():
    call = Call(open_image(SLOW, SETTINGS).decode)
    wait_for(decoding)
    POOL.close()
    call.join(PATIENCE_S)
    assert isinstance(call.error, Abandoned)
    assert workers() == []
    assert load_image(SMALL, SETTINGS)


def test_many_threads_get_their_own_pixels():
    colours = [(i * 7 % 256, i * 31 % 256, i * 101 % 256) for i in range(40)]
    calls = []
    for colour in colours:
        data = encode(Image.new("RGB", (50, 40), colour))
        calls.append(Call(lambda data=data: load_image(data, SETTINGS).getpixel((25, 20))))
        if len(calls) % 12 == 0:
            calls[-12].join(PATIENCE_S)
    for call in calls:
        call.join(PATIENCE_S)
    done = [
        (call.result, colour) for call, colour in zip(calls, colours, strict=True) if call.result
    ]
    assert all(seen == colour for seen, colour in done)
    assert all(call.result or isinstance(call.error, Busy) for call in calls)
    assert len(done) >= 2 + MAX_WAITING


def test_nothing_starts_at_import_and_nothing_outlives_the_server():
    assert workers() == []
    code = (
        "import os, sys, signal\n"
        "from qwen_vl.media.pictures import load_image\n"
        "from qwen_vl.config import Settings\n"
        "load_image(sys.stdin.buffer.read(), Settings())\n"
        "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=SMALL, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert pids
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_a_decoder_can_open_nothing(tmp_path):
    """The request names a file; what it would read next to it, or over the network, is out."""
    code = (
        "import socket\n"
        "from qwen_vl.media.decoders.worker import _bound\n"
        "_bound(100 << 20, 10)\n"
        "for attempt in (lambda: open('/etc/passwd'), lambda: open('x', 'w'), socket.socket):\n"
        "    try: attempt()\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["24", "24", "24"]  # EMFILE


def test_opened_pictures_can_be_kept_and_copied(tmp_path):
    picture = open_image(SMALL, SETTINGS)
    picture.decode()
    copy = pickle.loads(pickle.dumps(picture))
    assert (copy.size, copy.key) == (picture.size, picture.key)
    assert copy.decode().tobytes() == picture.decode().tobytes()
    path = tmp_path / "gone.png"
    path.write_bytes(SMALL)
    kept = open_image(path, SETTINGS)
    assert kept.key == picture.key
    path.unlink()
    with pytest.raises(UserError, match="Add it again"):
        kept.decode()


# Work in bands gives what work on whole pictures gives


def whole(image: Image.Image) -> Image.Image:
    """As it was done before there were bands."""
    if image.mode == "I;16":
        values = np.asarray(image).astype(np.float64) / 65535 * 255
        rgb = Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        values = (values - values.min()) * (255 / (values.max() - values.min()))
        rgb = Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")
    else:
        rgb = image.convert("RGB")
    size = kept_size(*rgb.size)
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kept_px", [1_000_000, 20_000])
@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"),
     ("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF"), ("1", "PNG"), ("RGB", "WEBP"),
     ("RGBA", "WEBP")],
)  # fmt: skip
def test_bands(monkeypatch, mode, form, kept_px):
    monkeypatch.setattr("qwen_vl.media.limits.MAX_KEPT_PIXELS", kept_px)
    monkeypatch.setattr(pictures, "_BAND_PX", 3000)
    noise = np.random.default_rng(5)
    coarse = Image.fromarray(noise.integers(0, 160, (30, 40, 4), np.uint8), "RGBA")
    image = coarse.resize((310, 207), Image.Resampling.BICUBIC)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((np.asarray(image.convert("L")) * 257.0).astype(kind))
    else:
        image = image.convert(mode)
    data = encode(image, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    stored = Image.open(BytesIO(data))
    header = read_header(data)
    request = {"do": "decode", "format": header.format, "orientation": header.orientation}
    (told, _), *bands = pictures.read(data, request, SETTINGS)
    seen = np.frombuffer(b"".join(band for _, band in bands), np.uint8).astype(int)
    expected = whole(stored)
    assert tuple(told["size"]) == expected.size
    difference = np.abs(seen - np.asarray(expected).astype(int).ravel())
    assert difference.max() <= (0 if expected.size == image.size else 1)
