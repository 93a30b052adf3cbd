"""Opens one untrusted clip: the container, the stream that players show, and what both say of it.

The first bytes name the container and FFmpeg never guesses, so no playlist is followed. Knows
FFmpeg's containers and their clocks. Does not decode.
"""

from __future__ import annotations

import errno
import io
from typing import Any, BinaryIO

import av
import av.subtitles.codeccontext  # by name: av would load it late, when no file can be opened
import av.subtitles.stream

from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.headers import CONTAINERS_TEXT, HEAD_BYTES, container_of

# Those that browsers play keep their own clock there: a recording that starts at 30 s is shown from
# 30 s on. Tried with clips that tell their time: Chromium shows each picture at its time stamp.
OWN_CLOCK = ("mov", "matroska", "ogg")
MOST_STREAMS = 64
PROBE_BYTES, PROBE_S = 4 << 20, 8.0  # looked at to find out what is in a file

_SEGMENT = bytes.fromhex("18538067")  # of Matroska: all but a short header

BROKEN = (
    "The video is broken or incomplete: not one picture could be decoded. Play it on your computer "
    f"to check it, then save it as {CONTAINERS_TEXT} and send that."
)
NO_PICTURES = "This file has sound and no pictures. Send a video."
EMPTY = "The video has no pictures in it: its recording may have been broken off. Send another one."
ENCRYPTED = "The video is encrypted, so it cannot be read. Send a copy without protection."


def opened(file: BinaryIO) -> Any:
    """PyAV's container. Raises BadRequest, TooLarge and MemoryError."""
    file.seek(0)
    name = container_of(file.read(HEAD_BYTES))
    file.seek(0)
    try:
        container = av.open(
            file,
            format=name,
            options={  # a container may name other files and addresses, and hide much in front
                "protocol_whitelist": "none",
                "probesize": str(PROBE_BYTES),
                "analyzeduration": str(int(PROBE_S * 1e6)),
            },
            metadata_errors="replace",  # titles come in every encoding
        )
    except (av.error.FFmpegError, ValueError) as error:
        check_memory(error)
        ends_early = isinstance(error, av.error.EOFError)
        raise BadRequest(EMPTY if ends_early else BROKEN) from None
    if len(container.streams) > MOST_STREAMS:
        container.close()
        raise TooLarge(f"The video has more than {MOST_STREAMS} streams. Save it anew with one.")
    return container


def pictures_of(container: Any) -> Any:
    """The stream that a player shows, never the picture on the cover.

    That is the default one; in WebM and MKV, Chromium shows the first.

    Raises BadRequest where there is none, and UnsupportedMedia for a codec that is not read.
    """
    shown = [one for one in container.streams.video if not _is_cover(one)]
    stream = container.streams.best("video")
    if stream not in shown or "matroska" in container.format.name:
        stream = next(iter(shown), None)
    if stream is None:
        raise BadRequest(NO_PICTURES if container.streams.audio else BROKEN)
    if stream.codec_context is None:
        raise UnsupportedMedia(
            "The codec of this video is not read here. Save it as MP4 with H.264 and send that."
        )
    return stream


def clock_start_s(container: Any) -> float:
    """When the player's clock shows 0, in seconds of the container's clock."""
    if any(name in OWN_CLOCK for name in container.format.name.split(",")):
        return 0.0
    return max(0.0, (container.start_time or 0) / av.time_base)


def is_cut_off(file: BinaryIO) -> bool:
    """Whether a file of Matroska's or an AVI says that it is longer. FFmpeg just ends there."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    at, width = head.find(_SEGMENT) + len(_SEGMENT), 0
    if head[:4] == b"RIFF":
        at, size = 8, int.from_bytes(head[4:8], "little")
    elif at >= len(_SEGMENT) and at < len(head) and head[at]:
        width = 9 - head[at].bit_length()
        size = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
        if size == (1 << 7 * width) - 1:  # written live
            return False
    else:
        return False
    return at + width + size > file.seek(0, io.SEEK_END)


def check_encryption(packet: Any, stream: Any) -> None:
    """Raises BadRequest for a packet that only a key could read."""
    # MP4 says it of each packet, Matroska (by an id of the key) of the stream.
    if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:
        raise BadRequest(ENCRYPTED)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_memory(error: Exception) -> None:
    """Raises MemoryError where that is what FFmpeg's error says."""
    if getattr(error, "errno", 0) == errno.ENOMEM:
        raise MemoryError from None
