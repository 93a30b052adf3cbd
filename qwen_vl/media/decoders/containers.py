"""Opens one untrusted clip: the container, the stream that players show, and what both say of it.

The first bytes name the container and FFmpeg never guesses, so no playlist is followed. Knows
FFmpeg's containers and their clocks. Does not decode.
"""

from __future__ import annotations

import errno
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
    """The stream that players show: the default one, never the picture on the cover.

    Raises BadRequest where there is none, and UnsupportedMedia for a codec that is not read.
    """
    stream = container.streams.best("video")
    if stream is None or _is_cover(stream):
        stream = next((one for one in container.streams.video if not _is_cover(one)), None)
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
