"""A keyframe's time is the player's: seeking there in a browser shows that very picture."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page
from support import clip_files as clips
from support.browser_app import chromium
from test_clip_kinds import FPS, FRAMES, SECOND_IS_SHOWN, shows_second, two_streams, written

from qwen_vl.config import Settings
from qwen_vl.media.clips import extract_keyframes

_TIMES = (Path(__file__).parent.parent / "qwen_vl" / "ui" / "times.js").read_text(encoding="utf-8")
SEEK_INTO_S = float(re.search(r"INTO_S = ([\d.]+)", _TIMES)[1])  # as the page seeks
LATE_S = [4 + i / FPS for i in range(FRAMES)]
CLOCK_S = [30 + i / FPS for i in range(FRAMES)]
# One for each container that Chromium plays, and each way for a clip to begin.
PLAYED: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "many-b.mp4": {"options": {"bf": "4"}},
    "edited.mp4": {"times_s": [i / FPS - 0.3 for i in range(FRAMES)]},
    "late.mp4": {"times_s": LATE_S, "sound": True},
    "clock.mp4": {"times_s": CLOCK_S},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "av1.mp4": {"codec": "libsvtav1"},
    "plain.mov": {},
    "late.mov": {"times_s": LATE_S, "sound": True},
    "plain.m4v": {},
    "plain.webm": {"codec": "libvpx-vp9"},
    "clock.webm": {"codec": "libvpx", "times_s": CLOCK_S},
    "plain.mkv": {},
    "late.mkv": {"times_s": LATE_S, "sound": True},
    "clock.mkv": {"times_s": CLOCK_S},
    "ntsc.mp4": {"times_s": [i * 1001 / 30000 for i in range(FRAMES)], "rate": 30},
    "film.mkv": {"times_s": [i / 24 for i in range(FRAMES)], "rate": 24},
    "ntsc.webm": {
        **{"codec": "libvpx", "rate": 30},
        "times_s": [i * 1001 / 30000 for i in range(FRAMES)],
    },
    "vp8.ogv": {"codec": "libvpx"},
}
SHOWN = """async ([uri, times, into_s, width, height]) => {
    const video = document.createElement("video");
    const told = (name) => new Promise((done, failed) => {
        setTimeout(() => failed(`no "${name}" for a minute`), 60000);
        video.addEventListener(name, done, { once: true });
        video.addEventListener("error", () => failed(video.error.message), { once: true });
    });
    const loaded = told("loadeddata");
    video.muted = true;
    video.src = URL.createObjectURL(await (await fetch(uri)).blob());
    await loaded;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pictures = [];
    for (const time of times) {
        const seeked = told("seeked");
        // On a busy machine a frame is painted some time after it was sought.
        const painted = new Promise((done) => {
            video.requestVideoFrameCallback(done);
            setTimeout(done, pictures.length ? 1000 : 100);  // the first may be there already
        });
        video.currentTime = time + into_s;
        await Promise.all([seeked, painted]);
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        canvas.getContext("2d").drawImage(video, 0, 0, width, height);
        pictures.push(canvas.toDataURL());
    }
    return [pictures, video.videoWidth, video.videoHeight];
}"""


@pytest.fixture(scope="module")
def page() -> Any:
    with chromium() as browser:
        yield browser.new_page()


@pytest.mark.parametrize("name", SECOND_IS_SHOWN)
def test_the_player_shows_that_one_of_several_streams(
    page: Page, tmp_path: Path, name: str
) -> None:
    data = base64.b64encode(two_streams(tmp_path / name).read_bytes()).decode()
    asked = [f"data:video/mp4;base64,{data}", [0.5], SEEK_INTO_S, clips.WIDTH, clips.HEIGHT]
    (shown,), *_ = page.evaluate(SHOWN, asked)
    png = base64.b64decode(shown.partition(",")[2])
    assert shows_second(Image.open(io.BytesIO(png))) == SECOND_IS_SHOWN[name]


@pytest.mark.parametrize("name", PLAYED)
def test_the_player_shows_a_keyframe_at_its_time(page: Page, tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, **PLAYED[name])
    frames = extract_keyframes(path, "even", Settings(), count=FRAMES)
    assert len(frames) > FRAMES - 4  # an edit hides three
    if name.endswith(".ogv"):  # FFmpeg writes its second frame 1 ms after the first
        del frames[0]
    uri = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    asked = [uri, [frame.time_s for frame in frames], SEEK_INTO_S, clips.WIDTH, clips.HEIGHT]
    pictures, width, height = page.evaluate(SHOWN, asked)
    assert (width, height) == frames[0].image.size
    for frame, shown in zip(frames, pictures, strict=True):
        png = base64.b64decode(shown.partition(",")[2])
        seen = clips.read_index(Image.open(io.BytesIO(png)).convert("RGB"))
        assert seen == clips.read_index(frame.image)
