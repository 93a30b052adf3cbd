"""Clips and frames of one request -> pictures with their times.

Knows JSON parts of type `video_url` and `video`. Each clip goes through a file that is gone when it
has been read. Knows nothing of messages or answers.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from qwen_vl.api.payloads import flag
from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.media.kept import KeptImage
from qwen_vl.media.pictures import data_uri_bytes, open_data_uri
from qwen_vl.sampling import NUMBER, WHOLE, checked
from qwen_vl.schema import Compact, ImagePart, Part, as_wished

EVERY_S = 5.0  # where a clip comes without a wish
_NUMBER = Annotated[float, NUMBER]
_FRAMES = Annotated[int, Field(ge=1), WHOLE]


class ClipReader:
    """Reads the clips of one request. `has_left` ends that when its client is gone.

    `damaged_s` are the stretches (from, to) that could not be decoded, of all clips so far.
    """

    def __init__(self, settings: Settings, has_left: threading.Event) -> None:
        self._settings, self._has_left = settings, has_left
        self.damaged_s: list[tuple[float, float]] = []

    def clip(self, raw: Mapping[str, Any], where: str) -> list[Part]:
        """`{"type": "video_url", "video_url": {"url": data URI}}` -> timed frames.

        Which: `method` (auto, scenes, even or interval), `every_s` or `fps`, `count`, `max_frames`
        and `fast`. `compact` puts them in pairs.
        """
        url = raw.get("video_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise BadRequest(f"{where}.video_url.url must be a string: a data: URI.")
        from qwen_vl.media.clips import Clip, Method, extract_keyframes  # OpenCV loads with these

        wishes, compact = self._wishes(raw, where, get_args(Method)), _compact(raw, where)
        data = data_uri_bytes(url, "video", self._settings.max_video_mb)

        def note(clip: Clip) -> None:
            self.damaged_s += clip.damaged_s

        with tempfile.TemporaryDirectory(prefix="qwen-vl-clip-") as folder:
            path = Path(folder) / "clip"
            path.write_bytes(data)
            del data  # reading the clip takes seconds
            frames = extract_keyframes(
                path,
                settings=self._settings,
                on_clip=note,
                should_stop=self._has_left.is_set,
                **wishes,
            )
        parts = [ImagePart(KeptImage(frame.image), frame.time_s) for frame in frames]
        return list(as_wished(parts, compact))

    def _wishes(
        self, raw: Mapping[str, Any], where: str, methods: tuple[str, ...]
    ) -> dict[str, Any]:
        """Which frames are wanted, as arguments of `extract_keyframes`."""
        limit_s = self._settings.max_video_seconds
        named = {name: raw.get(name) for name in ("every_s", "fps", "count", "max_frames")}
        given = {name: value for name, value in named.items() if value is not None}
        if "fps" in given:
            fps = checked(f"{where}.fps", _NUMBER, given.pop("fps"))
            given.setdefault("every_s", 1 / fps if fps > 0 else 0)
        wished = "interval" if "every_s" in given else "even" if "count" in given else "auto"
        method = raw.get("method") or wished
        for name in given:
            hint = _NUMBER if name == "every_s" else _FRAMES
            given[name] = checked(f"{where}.{name}", hint, given[name])
        if not 0 < given.setdefault("every_s", EVERY_S) <= limit_s:
            raise BadRequest(
                f"{where}.every_s must be a number of seconds greater than 0, up to {limit_s}."
            )
        if method not in methods:
            raise BadRequest(f"{where}.method must be one of {', '.join(methods)}.")
        return {"method": method, "fast": flag(raw, "fast"), **given}

    def frames(self, raw: Mapping[str, Any], where: str) -> list[Part]:
        """`{"type": "video", "frames": [data URIs], "timestamps_s": [...]}` -> timed frames."""
        frames, times_s = raw.get("frames"), raw.get("timestamps_s")
        if not isinstance(frames, list) or not frames:
            raise BadRequest(f"{where}.frames must be a list of data: URIs.")
        if not isinstance(times_s, list) or len(times_s) != len(frames):
            raise BadRequest(f"{where}.timestamps_s must hold one number for each frame.")
        if len(frames) > self._settings.max_frames:
            raise TooLarge(
                f"{len(frames)} frames are more than the limit of {self._settings.max_frames}."
            )
        limit_s = self._settings.max_video_seconds
        parts: list[ImagePart] = []
        for uri, time_s in zip(frames, times_s, strict=True):
            number = isinstance(time_s, (int, float)) and not isinstance(time_s, bool)
            if not number or not 0 <= time_s <= limit_s:
                raise BadRequest(f"{where}.timestamps_s must be seconds from 0 to {limit_s}.")
            if not isinstance(uri, str):
                raise BadRequest(f"{where}.frames must be a list of data: URIs.")
            parts.append(ImagePart(open_data_uri(uri, self._settings), float(time_s)))
        return list(as_wished(parts, _compact(raw, where)))


def _compact(raw: Mapping[str, Any], where: str) -> Compact:
    wish = raw.get("compact")
    if not (wish is None or isinstance(wish, bool) or wish == "auto"):
        raise BadRequest(f'{where}.compact must be true, false or "auto".')
    return "auto" if wish is None or wish == "auto" else bool(wish)
