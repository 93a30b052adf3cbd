"""`python -m qwen_vl.bench.clips`: how fast clips are read, and how well scene changes are found.

Makes clips of known kinds, reads them as the page does, and compares with PySceneDetect in the same
run where that is installed (it is no requirement). Ratios are printed, and what was counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from qwen_vl.config import Settings
from qwen_vl.media.decoders.clips import found_in
from qwen_vl.media.scenes import SceneFinder

FPS = 25
SIZE, SMALL = (1280, 720), (320, 180)  # of the benchmark's clips, and for tests
PAGE = (640, 360)  # px, of slides as they are drawn
SCENES, SCENE_S = 8, 3.0
BALLS = ((40, 40, 220), (220, 220, 40), (30, 200, 30))
NEAR_S = 0.35  # how far a found change may lie from a true one
LONG_S = 600
PEER = "scenedetect==0.7.2"
SETTINGS = Settings(max_video_seconds=1200, max_frames=512)
Change = tuple[float, float]  # from when to when a scene turns into the next; equal for a cut


@dataclass(frozen=True)
class Row:
    """One kind of clip: F1 and seconds of each way to find its changes."""

    kind: str
    f1: dict[str, float]
    seconds: dict[str, float]


# --- clips whose changes are known ---


class World:
    """Drawn scenes: each with its own texture and a few things that move."""

    def __init__(self, seed: int, size: tuple[int, int] = SIZE) -> None:
        self.size = size
        self._random = np.random.default_rng(seed)
        self._scenes: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def picture(self, scene: int, time_s: float, pan_widths_per_s: float = 0.0) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if scene not in self._scenes:
            coarse = self._random.integers(20, 235, (9, 32, 3), np.uint8)
            size = (self.size[0] * 4, self.size[1])
            wide = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
            fine = self._random.normal(0, 10, wide.shape)
            texture = np.clip(wide + fine, 0, 255).astype(np.uint8)
            places = self._random.uniform(0.2, 0.8, (4, 2))
            speeds = self._random.uniform(-0.12, 0.12, (4, 2))
            self._scenes[scene] = texture, places, speeds
        texture, places, speeds = self._scenes[scene]
        width, height = self.size
        left = round(pan_widths_per_s * width * (time_s % SCENE_S))
        shown = np.ascontiguousarray(texture[:, left : left + width])
        for i, (place, speed) in enumerate(zip(places, speeds, strict=True)):
            x, y = (place + speed * (time_s % SCENE_S)) % 1.0
            at = (round(x * width), round(y * height))
            cv2.circle(shown, at, height // 14, BALLS[i % len(BALLS)], -1)
        return shown


def hard_cuts(world: World) -> Iterator[np.ndarray]:
    for scene, time_s in _timeline():
        yield world.picture(scene, time_s)


def camera(world: World) -> Iterator[np.ndarray]:
    for scene, time_s in _timeline():
        yield world.picture(scene, time_s, 0.8)


def noise(world: World) -> Iterator[np.ndarray]:
    grain = np.random.default_rng(7)
    for scene, time_s in _timeline():
        shown = world.picture(scene, time_s)
        rough = shown + grain.normal(0, 12, shown.shape)
        yield np.clip(rough, 0, 255).astype(np.uint8)


def letterbox(world: World) -> Iterator[np.ndarray]:
    for scene, time_s in _timeline():
        shown = world.picture(scene, time_s)
        bar = len(shown) // 6
        shown[:bar] = shown[-bar:] = 0
        yield shown


def flashes(world: World) -> Iterator[np.ndarray]:
    """A photographer's flash in the middle of every scene, three frames long."""
    for scene, time_s in _timeline():
        shown = world.picture(scene, time_s)
        within_s = time_s - scene * SCENE_S
        is_flash = SCENE_S / 2 <= within_s < SCENE_S / 2 + 3 / FPS
        yield np.clip(shown.astype(np.int16) + 150, 0, 255).astype(np.uint8) if is_flash else shown


def slides(world: World) -> Iterator[np.ndarray]:
    """White pages that differ in a few lines, as in a recorded talk."""
    for scene, _ in _timeline():
        page = np.full((*PAGE[::-1], 3), 250, np.uint8)
        lines = np.random.default_rng(scene)
        for line in range(5):
            left, width = int(lines.integers(20, 200)), int(lines.integers(120, 380))
            page[40 + 60 * line : 56 + 60 * line, left : left + width] = 40
        yield cv2.resize(page, world.size)


def dissolves(world: World) -> Iterator[np.ndarray]:
    for scene, time_s in _timeline():
        share = _share(scene, time_s)
        shown = world.picture(scene, time_s).astype(np.float32)
        if share > 0:
            shown += share * (world.picture(scene + 1, time_s) - shown)
        yield shown.astype(np.uint8)


def fades(world: World) -> Iterator[np.ndarray]:
    for scene, time_s in _timeline():
        share = _share(scene, time_s)
        light = abs(1 - 2 * share)
        shown = world.picture(scene if share < 0.5 else scene + 1, time_s)
        yield (shown * light).astype(np.uint8)


GRADUAL_S = 1.0
KINDS: dict[str, Callable[[World], Iterator[np.ndarray]]] = {
    "hard cuts": hard_cuts,
    "fades": fades,
    "dissolves": dissolves,
    "flashes": flashes,
    "camera motion": camera,
    "static slides": slides,
    "noise": noise,
    "letterbox": letterbox,
}


def _timeline() -> Iterator[tuple[int, float]]:
    """(scene, time) of each frame."""
    for index in range(round(SCENES * SCENE_S * FPS)):
        yield int(index / FPS // SCENE_S), index / FPS


def _share(scene: int, time_s: float) -> float:
    """0..1: how much of the next scene is there, in the last second of this one."""
    left_s = (scene + 1) * SCENE_S - time_s
    return 1 - left_s / GRADUAL_S if left_s < GRADUAL_S and scene + 1 < SCENES else 0.0


def true_changes(kind: str) -> list[Change]:
    length_s = GRADUAL_S if kind in ("fades", "dissolves") else 0.0
    ends = (scene * SCENE_S for scene in range(1, SCENES))
    return [(end_s - length_s, end_s) for end_s in ends]


def write(path: Path, pictures: Iterator[np.ndarray], keyframe_every: int = 10 * FPS) -> Path:
    options = {"preset": "veryfast", "g": str(keyframe_every)}
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=FPS, options=options)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        out.mux(stream.encode())
    return path


# --- ways to find changes ---


def ours(path: Path, fast: bool = False) -> list[float]:
    """Times of changes, as the page's method "scenes" finds them; without the second process."""
    finder = SceneFinder(SETTINGS.max_frames)
    with path.open("rb") as file:
        found_in(file, finder, SETTINGS, fast)
    return [start_s for start_s in finder.starts_s if start_s > 0]


def their_ways() -> dict[str, Callable[[Path], list[float]]]:
    """PySceneDetect's detectors; none where it is not installed."""
    try:
        import scenedetect
    except ImportError:
        print(f"PySceneDetect is not here: pip install {PEER}, to compare with it.\n")
        return {}

    def way(detector: Any) -> Callable[[Path], list[float]]:
        def find(path: Path) -> list[float]:
            scenes = scenedetect.detect(str(path), detector())
            return [start.seconds for start, _ in scenes[1:]]

        return find

    kinds = (scenedetect.ContentDetector, scenedetect.AdaptiveDetector)
    return {kind.__name__: way(kind) for kind in kinds}


def f1(found_s: Sequence[float], changes: Sequence[Change]) -> float:
    """Each true change counts once; a found one counts for the first that it is near to."""
    left, hits = list(changes), 0
    for time_s in found_s:
        near = (one for one in left if one[0] - NEAR_S <= time_s <= one[1] + NEAR_S)
        match = next(near, None)
        if match is not None:
            left.remove(match)
            hits += 1
    return 2 * hits / (len(found_s) + len(changes)) if found_s or changes else 1.0


def measure(folder: Path, repeats: int) -> list[Row]:
    ways: dict[str, Callable[[Path], list[float]]] = {"this project": ours, **their_ways()}
    ways["this project, fast"] = partial(ours, fast=True)
    rows = []
    for kind, drawn in KINDS.items():
        path = write(folder / "clip.mp4", drawn(World(3)))
        found: dict[str, list[float]] = {}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                start_s = time.perf_counter()
                found[name] = way(path)
                taken[name].append(time.perf_counter() - start_s)
        scores = {name: f1(times_s, true_changes(kind)) for name, times_s in found.items()}
        rows.append(Row(kind, scores, {name: min(times) for name, times in taken.items()}))
    return rows


def table(rows: Sequence[Row]) -> str:
    names = list(rows[0].f1)
    lines = ["| clip | " + " | ".join(f"F1, {name}" for name in names) + " | "]
    lines[0] += " | ".join(f"time, {name}: this" for name in names[1:]) + " |"
    lines.append("|---" * (2 * len(names)) + "|")
    for row in rows:
        own_s = row.seconds[names[0]]
        scores = " | ".join(f"{row.f1[name]:.2f}" for name in names)
        ratios = " | ".join(f"{row.seconds[name] / own_s:.2f}x" for name in names[1:])
        lines.append(f"| {row.kind} | {scores} | {ratios} |")
    means = " | ".join(f"{statistics.mean(row.f1[name] for row in rows):.2f}" for name in names)
    total = {name: sum(row.seconds[name] for row in rows) for name in names}
    ratios = " | ".join(f"{total[name] / total[names[0]]:.2f}x" for name in names[1:])
    return "\n".join([*lines, f"| **all** | {means} | {ratios} |"])


# --- a long clip ---


def long_clip(path: Path, seconds: int) -> Path:
    """720p with a keyframe every 4 s: scenes of 20 s, in each of which something small moves."""
    small = World(5, SMALL)

    def pictures() -> Iterator[np.ndarray]:
        for second in range(seconds):
            still = cv2.resize(small.picture(second // 20, 0), (1280, 720))
            for frame in range(FPS):
                shown = still.copy()
                shown[20:60, 20 + 8 * frame : 60 + 8 * frame] = 255
                yield shown

    return write(path, pictures(), keyframe_every=4 * FPS)


def sparse(folder: Path, seconds: int) -> str:
    from qwen_vl.media.clips import extract_keyframes
    from qwen_vl.media.decoders import POOL

    path = long_clip(folder / "long.mp4", seconds)
    extract_keyframes(path, "even", SETTINGS, count=1)  # the process is there
    start_s = time.perf_counter()
    frames = extract_keyframes(path, "even", SETTINGS, count=8)
    few_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        count = sum(1 for _ in container.decode(stream))
    pass_s = time.perf_counter() - start_s
    POOL.close()
    passes_s = []
    for fast in (False, True):
        start_s = time.perf_counter()
        ours(path, fast)
        passes_s.append(time.perf_counter() - start_s)
    return (
        f"scene changes of {seconds} s of 720p: {passes_s[0]:.2f} s; fast: {passes_s[1]:.2f} s; "
        f"ratio {passes_s[1] / passes_s[0]:.3f}\n"
        f"8 frames of {seconds} s of 720p ({len(frames)} found): {few_s:.2f} s; one pass over its "
        f"{count} frames: {pass_s:.2f} s; ratio {few_s / pass_s:.3f}"
    )


def memory(folder: Path) -> str:
    """The most that a process takes to find the scene changes of clips of 1 and of 4 minutes."""
    spawn = multiprocessing.get_context("spawn")
    most = []
    for seconds in (60, 240):
        path = long_clip(folder / f"{seconds}.mp4", seconds)
        with ProcessPoolExecutor(1, mp_context=spawn) as processes:
            most.append(processes.submit(_peak_mb, path).result())
    return (
        f"scene changes in 1 minute of 720p: peak {most[0]:.0f} MB; in 4 minutes: {most[1]:.0f} MB"
    )


def _peak_mb(path: Path) -> float:
    ours(path)
    # Not getrusage: its peak begins with what the parent had.
    told = Path("/proc/self/status").read_text().splitlines()
    (line,) = (one for one in told if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen_vl.bench.clips", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--seconds", type=int, default=LONG_S, help="of the long clip; 0: none")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="qwen-vl-bench-") as name:
        folder = Path(name)
        rows = measure(folder, args.repeats)
        print(table(rows), flush=True)
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
        if args.seconds:
            print("\n" + memory(folder), flush=True)
            print(sparse(folder, args.seconds), flush=True)


if __name__ == "__main__":
    main()
