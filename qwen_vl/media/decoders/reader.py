"""The frames of one untrusted clip in the order of time, with the times that a player shows.

A pass reads them all; `frames_at` seeks to the few that are wanted. Both count what is damaged and
keep to the limits on pixels, frames and length, whatever the container claims. Knows times and
limits. Does not know which frames are wanted, or what is done with them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.media.decoders import containers
from qwen_vl.media.decoders.damage import joined
from qwen_vl.media.decoders.display import Display, stretched, swaps_sides
from qwen_vl.media.decoders.interlaced import deinterlaced
from qwen_vl.media.limits import MAX_FPS, check_size

ASSUMED_FPS = 25.0  # where a container tells none
THREADS = 2
ALL, BUILT_UPON, ALONE = "DEFAULT", "NONREF", "NONKEY"  # which frames are decoded
TIME_SLACK_S = 0.0015  # WebM and MKV round times to 1 ms
FEW_FRAMES = 300  # a clip that has no more is read in one pass
DENSE = 6  # and so is one of which more than one frame in so many is wanted
CLAIM_SLACK_S = 0.5  # by which the end may lie after the last frame that was looked at
HEALED_FRAMES = 300  # after damage, where no keyframe comes
_ONE_THREAD_PX = 4_000_000
_BEFORE_S = (0.0, 2.0, 10.0, 60.0)  # how much earlier to seek where seeking came out too late


class Reader:
    """One clip. Times are seconds on the player's clock, which need not begin at 0.

    Raises BadRequest, TooLarge, UnsupportedMedia and MemoryError, here and while reading.
    """

    def __init__(self, file: BinaryIO, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self._display = Display()
        self._frame: Any = None  # the current one
        self.time_s = 0.0  # of the current frame
        self.count = 0  # of frames decoded by the latest pass
        self._skip = ALL
        self.measured = False  # whether the length was, by reading to the end
        self.damaged_s: list[tuple[float, float]] = []
        self._hurt, self._sound_s = False, 0.0  # damage since the last sound frame; its time
        self._has_packets = False
        self._open()

    # --- what it is ---

    def _open(self) -> None:
        """Reads what the container says, and the first frame."""
        with containers.opened(self._file) as container:
            stream = containers.pictures_of(container)
            # Some containers give their 1000 ticks a second for a rate.
            rates = (stream.average_rate, stream.guessed_rate, Fraction(ASSUMED_FPS))
            self.fps = float(next(rate for rate in rates if rate and rate <= MAX_FPS))
            frame = next(self._whole_frames(container, stream), None)
            if frame is None:
                raise BadRequest(containers.BROKEN if self._has_packets else containers.EMPTY)
            self.start_s = self._stamp_of(frame, stream, container) or 0.0
            self.end_s = self._claimed_s = self._claimed_end_s(container, stream)
            width, height = stretched(frame.width, frame.height, _pixel_shape(stream))
            self.size = (height, width) if swaps_sides(frame) else (width, height)
            self.frame_count = round(self.length_s * self.fps) or stream.frames
        self._check_length(self.end_s)

    @property
    def length_s(self) -> float:
        """From the first picture to the end of the last; 0 where it is not known yet."""
        return max(0.0, self.end_s - self.start_s)

    def numbers(self) -> dict[str, Any]:
        """What `clips.Clip` holds."""
        width, height = self.size
        return {
            **{"duration_s": self.length_s, "start_s": self.start_s, "fps": self.fps},
            **{"width": width, "height": height, "frame_count": self.frame_count},
            "damaged_s": [list(stretch) for stretch in self.damaged_s],
        }

    def _claimed_end_s(self, container: Any, stream: Any) -> float:
        """When the last picture ends, as the container has it; 0 where it does not say."""
        clock_s = containers.clock_start_s(container)
        if stream.duration and stream.time_base:
            start = float((stream.start_time or 0) * stream.time_base)
            return max(0.0, start + float(stream.duration * stream.time_base) - clock_s)
        if not container.duration:
            return 0.0
        start_s = max(0.0, (container.start_time or 0) / av.time_base)
        return start_s + container.duration / av.time_base - clock_s

    # --- pictures ---

    def picture(self, max_side_px: int) -> np.ndarray:
        """The current frame as shown: uint8 [height, width, 3], RGB, upright."""
        return self._display.picture(self._frame, self._shape, max_side_px)

    def small(self, side_px: int) -> np.ndarray:
        """The current frame small and coarse, as it lies in the file."""
        return self._display.small(self._frame, side_px)

    # --- all of them ---

    def frames(self, coarse: bool = False) -> Iterator[float]:
        """Yields the time of each frame; `picture` shows the one just yielded. Measures the end.

        `coarse` leaves out frames that no other frame is built upon: faster, and good enough to
        compare frames. Then the end is believed where it is nearly right.
        """
        self.damaged_s, self._skip = [], BUILT_UPON if coarse else ALL
        with containers.opened(self._file) as container:
            stream = containers.pictures_of(container)
            yield from self._timed(container, stream)
        if coarse:
            if not -1 / self.fps < self.end_s - self.time_s < CLAIM_SLACK_S:
                self.end_s = self.time_s + 1 / self.fps
            return
        shown_s = (self.time_s - self.start_s) / (self.count - 1) if self.count > 1 else 0.0
        self.end_s = self.time_s + (shown_s or 1 / self.fps)
        self.frame_count = self.count
        if self.count > 1:
            self.fps = self.count / self.length_s
        self.measured = True

    def keyframes(self) -> Iterator[float]:
        """Yields the time of each frame that stands alone, good enough to compare frames.

        Damage between them is none of theirs, so none is noted.
        """
        self._skip, known_s = ALONE, self.damaged_s
        try:
            with containers.opened(self._file) as container:
                stream = containers.pictures_of(container)
                yield from self._timed(container, stream)
        finally:
            self.damaged_s = known_s

    def _timed(self, container: Any, stream: Any) -> Generator[float]:
        self.count, last_s = 0, None
        for frame in self._whole_frames(container, stream):
            stamp_s = self._stamp_of(frame, stream, container)
            if last_s is None:
                time_s = self.start_s if stamp_s is None else stamp_s
            elif stamp_s is None or stamp_s <= last_s:
                # Raw streams and some AVI files carry no times (0 for every frame) and broken ones
                # go back: then the frame rate is all there is to go by.
                time_s = last_s + 1 / self.fps
            else:
                time_s = stamp_s
            self._frame, self.time_s, last_s = frame, time_s, time_s
            self.count += 1
            self._note_end_of_damage(time_s)
            self._check_length(time_s)
            yield time_s
        self._note_broken_end(last_s)

    # --- a few of them ---

    def is_worth_seeking(self, wanted: int) -> bool:
        """Whether reading `wanted` frames by seeking is likely to be cheaper than one pass."""
        return self.length_s > 0 and self.frame_count > max(FEW_FRAMES, DENSE * wanted)

    def measure(self) -> None:
        """Finds out where the last frame ends, from the last keyframe on, as far as it can."""
        self._skip = ALL
        with containers.opened(self._file) as container:
            stream = containers.pictures_of(container)
            for before_s in _BEFORE_S:
                _seek(container, stream, self._on_its_clock(container, self.end_s - before_s))
                last_s = gap_s = 0.0
                for frame in self._whole_frames(container, stream):
                    stamp_s = self._stamp_of(frame, stream, container) or 0.0
                    gap_s, last_s = (stamp_s - last_s, stamp_s) if last_s else (gap_s, stamp_s)
                    self._check_length(stamp_s)
                if gap_s or (last_s and self.end_s - before_s <= self.start_s):
                    self._note_broken_end(last_s)
                    self.end_s = last_s + (gap_s if 0 < gap_s < 1 else 1 / self.fps)
                    self.measured = True
                    return

    def frames_at(self, wanted_s: Sequence[float], coarse: bool = False) -> Iterator[float]:
        """Yields the time of the first frame at or after each wanted time, each frame once.

        `coarse` as in `frames`.

        Between two of them it seeks where that saves decoding. The times are those of the frames
        themselves: where a container seeks to the wrong place, an earlier one is tried.
        """
        self._skip = BUILT_UPON if coarse else ALL
        with containers.opened(self._file) as container:
            stream = containers.pictures_of(container)
            frames, given_s, can_seek = self._timed(container, stream), -1.0, True
            now_s, step_s = next(frames, None), 0.0
            for want_s in wanted_s:
                if now_s is None:
                    return
                if can_seek and want_s - now_s > max(1.0, 2 * step_s):
                    frames.close()
                    before_s = now_s
                    now_s, frames = self._sought(container, stream, want_s)
                    if now_s is None:
                        return
                    step_s = max(0.0, want_s - now_s)
                    can_seek = now_s > before_s  # else keyframes are too rare for it to pay
                while now_s is not None and now_s + TIME_SLACK_S < want_s:
                    now_s = next(frames, None)
                if now_s is not None and now_s > given_s:
                    given_s = now_s
                    yield now_s

    def _sought(
        self, container: Any, stream: Any, want_s: float
    ) -> tuple[float | None, Generator[float]]:
        """The time of the frame it has come to, at or before `want_s`, and the frames after it."""
        found_s: float | None = None
        for before_s in _BEFORE_S:
            target_s = max(self.start_s, want_s + TIME_SLACK_S - before_s)
            _seek(container, stream, self._on_its_clock(container, target_s))
            frames = self._timed(container, stream)
            found_s = next(frames, None)
            is_before = found_s is not None and found_s <= want_s + TIME_SLACK_S
            if is_before or target_s <= self.start_s:
                break
        return found_s, frames

    # --- decoding ---

    def _whole_frames(self, container: Any, stream: Any) -> Iterator[Any]:
        frames = self._decoded(container, stream)
        return frames if self._skip == ALONE else deinterlaced(frames)

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """The frames that are sound. A damaged stretch gives none, and reading goes on after it."""
        context = stream.codec_context
        check_size(context.width or 1, context.height or 1, self._settings, "video")
        # Frames that are larger than what the container says are not even begun.
        context.options = {"max_pixels": str(int(self._settings.max_image_megapixels * 1e6))}
        if self._skip != ALL:  # blocks keep their edges, which no small picture shows
            context.options |= {"skip_loop_filter": "all"}
        large = context.width * context.height > _ONE_THREAD_PX  # each thread keeps a frame
        if not context.is_open:
            context.thread_count, context.thread_type = 1 if large else THREADS, "AUTO"
            context.skip_frame = self._skip
        self._shape = _pixel_shape(stream)
        self._hurt = False
        packets, dropped = container.demux(stream), 0
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self._has_packets = self._has_packets or bool(packet.size)
                containers.check_encryption(packet, stream)
                self._hurt = self._hurt or packet.is_corrupt
                if self._skip == ALONE and packet.size and not packet.is_keyframe:
                    continue  # the decoder would skip it, and take longer
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                containers.check_memory(error)
                if isinstance(error, av.error.EOFError):
                    return
                self._hurt = True
                continue
            for frame in frames:
                # After damage, pictures are built upon it until the next keyframe. Some streams
                # have none and heal bit by bit.
                unhealed = self._hurt and not frame.key_frame and dropped < HEALED_FRAMES
                if frame.is_corrupt or unhealed:
                    self._hurt, dropped = True, dropped + 1
                    continue
                dropped = 0
                check_size(frame.width, frame.height, self._settings, "video")
                yield frame

    def _note_end_of_damage(self, time_s: float) -> None:
        """Keeps the stretch between two sound frames where something was damaged."""
        if self._hurt and self.count > 1:
            self._note_damage(self._sound_s, time_s)
        self._hurt, self._sound_s = False, time_s

    def _note_broken_end(self, last_s: float | None) -> None:
        """Keeps what is missing behind the last sound frame: a file that breaks off, or worse.

        Recordings often end in half a frame, which is nothing to tell.
        """
        if last_s is None or self._claimed_s - last_s <= CLAIM_SLACK_S:
            return
        if self._hurt or containers.is_cut_off(self._file):
            self._note_damage(last_s, self._claimed_s)

    def _note_damage(self, start_s: float, end_s: float) -> None:
        self.damaged_s = joined([*self.damaged_s, (start_s, end_s)])

    def _stamp_of(self, frame: Any, stream: Any, container: Any) -> float | None:
        """When a frame is shown, as far as it says so itself."""
        stamp = frame.dts if frame.pts is None else frame.pts
        base: Fraction | None = frame.time_base or stream.time_base
        if stamp is None or base is None:
            return None
        return max(0.0, float(stamp * base) - containers.clock_start_s(container))

    def _on_its_clock(self, container: Any, time_s: float) -> float:
        return time_s + containers.clock_start_s(container)

    def _check_length(self, time_s: float) -> None:
        """Counts what is really there: a container may claim to be short."""
        limit_s = self._settings.max_video_seconds
        if time_s - self.start_s > limit_s or self.count > limit_s * MAX_FPS:
            raise TooLarge(f"The video is longer than {limit_s} seconds. Cut it and send a part.")


def _seek(container: Any, stream: Any, time_s: float) -> None:
    """To the keyframe before `time_s`, or where the container thinks that is."""
    try:
        container.seek(int(time_s / stream.time_base), backward=True, stream=stream)
    except av.error.FFmpegError as error:
        containers.check_memory(error)


def _pixel_shape(stream: Any) -> Fraction | None:
    """The width of a pixel by its height; None where nothing is said."""
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None
