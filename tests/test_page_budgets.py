"""What the page takes from browsers is counted before it is worked on, and goes when they go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from PIL import Image, ImageChops
from support.browser_app import running_page
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import Settings
from qwen_vl.errors import TooLarge
from qwen_vl.media.kept import KeptImage
from qwen_vl.ui.chat import Chat
from qwen_vl.ui.chatbot import from_chatbot
from qwen_vl.ui.history import user_turns
from qwen_vl.ui.runs import MOST_RUNS, Runs
from qwen_vl.ui.shelf import Shelf
from qwen_vl.ui.sidebar import Knobs
from qwen_vl.ui.status import banner_html
from qwen_vl.ui.uploads import FILE_BYTES, KEPT_AT_LEAST_S, KEPT_AT_MOST_S, Uploads, own_folder

KNOBS = Knobs(
    sampling={
        **{"temperature": 0.0, "top_p": 1.0, "top_k": 0, "presence_penalty": 0.0},
        **{"max_new_tokens": 64, "seed": None, "stop": "", "max_image_tokens": 256},
    }
)
LONG_S = 5.0  # what has to be quick takes milliseconds


def wait_for(found: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def request(session: str = "a") -> Any:
    return SimpleNamespace(session_hash=session, headers={"accept-language": "en"})


def box(text: str, *files: str) -> dict[str, Any]:
    return {"text": text, "files": list(files)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


# --- what a request may hold ---


@pytest.mark.parametrize(
    "history",
    [
        [{"role": "user", "content": [{"type": "text", "text": ""}]}] * 40_000,
        [{"role": "user", "content": [{"type": "text", "text": ""}] * 40_000}],
        [{"role": role, "content": "x"} for role in ("user", "assistant")] * 40_000,
        [{"role": "user", "content": "x" * 5_000_000}],
    ],
)
def test_a_forged_history_is_refused_at_once(history: list[Any]) -> None:
    started = time.monotonic()
    with pytest.raises(TooLarge):
        from_chatbot(history, "", Settings())
    assert time.monotonic() - started < LONG_S


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_page(ScriptedEngine()) as url:
        yield url.rstrip("/")


def join(address: str, body: bytes) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{address}/gradio_api/queue/join", content=body, headers=headers, timeout=60)


def call(history: Any, text: str = "x", session: str = "forged") -> bytes:
    data = [box(text), history, ""]
    return json.dumps({"data": data, "fn_index": 0, "session_hash": session}).encode()


TURN = {"role": "user", "content": [{"type": "text", "text": ""}]}


@pytest.mark.parametrize(
    "body",
    [
        call([TURN] * 200_000),
        call([TURN] * 10_000),
        call([], "x" * 20_000_000),
        call([]).replace(b"[]", b"[" * 500 + b"]" * 500, 1),
        b"[" * 100_000,
        call([], session="s" * 1000),
        b"\xff\xfe",
    ],
)
def test_a_forged_call_ends_at_the_door(address: str, body: bytes) -> None:
    started = time.monotonic()
    assert join(address, body).status_code in (400, 413)
    assert time.monotonic() - started < LONG_S
    assert join(address, call([])).status_code == 200


def test_an_ordinary_conversation_of_the_longest_kind_passes(address: str) -> None:
    settings = Settings()
    words = "é" * (settings.max_prompt_chars // settings.max_messages)
    turns = [
        {"role": role, "content": [{"type": "text", "text": words}], "metadata": None}
        for role in ("user", "assistant")
    ] * (settings.max_messages // 2)
    note = {
        "role": "assistant",
        "content": [{"type": "text", "text": ""}],
        "metadata": {"title": "figures"},
    }
    history = [turn for pair in turns for turn in (pair, note, {**note, "options": [{}] * 12})]
    assert join(address, call(history)).status_code == 200


# --- uploads ---


def whole_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_an_upload_that_is_broken_off_leaves_nothing(address: str) -> None:
    folder = Path(gr.utils.get_upload_folder())
    before = set(whole_files(folder))
    port = int(address.rpartition(":")[2])
    head = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    )
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + b"a" * 2_000_000)
    wait_for(lambda: set(whole_files(folder)) <= before)


def test_too_large_an_upload_is_refused_before_it_comes(address: str) -> None:
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 20) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000000\r\n\r\n"
        )
        assert b" 413 " in client.recv(1000)


@pytest.mark.parametrize(("name", "status"), [("x.png", 413), ("x.JPG", 413), ("x.mkv", 200)])
def test_only_clips_may_be_as_large_as_clips(address: str, name: str, status: int) -> None:
    data = os.urandom(int((Settings().max_image_mb + 1) * 1024 * 1024))
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)}, timeout=60)
    assert reply.status_code == status
    named = [path.name for path in whole_files(Path(gr.utils.get_upload_folder()))]
    assert (name in named) == (status == 200)


def kept(folder: Path, name: str, age_s: float) -> Path:
    path = folder / name / "x.png"
    path.parent.mkdir()
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_the_oldest_uploads_make_room_and_young_ones_do_not(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 3 * FILE_BYTES)
    old, older = (kept(tmp_path, name, KEPT_AT_LEAST_S * n) for name, n in (("a", 2), ("b", 3)))
    young = kept(tmp_path, "c", 1)
    first = uploads.begin(FILE_BYTES)
    assert first is not None
    assert (old.exists(), older.exists(), young.exists()) == (True, False, True)
    assert uploads.begin(FILE_BYTES) is not None
    assert not old.exists()
    assert uploads.begin(FILE_BYTES) is None  # only what is in use is left
    assert young.exists()
    uploads.end(first)
    assert uploads.begin(FILE_BYTES) is not None


CLAIM = """
import sys
from qwen_vl import stubs
stubs.leave_out()
from qwen_vl.ui.uploads import own_folder
folder = own_folder(*sys.argv[1:])
(folder / "upload.png").write_bytes(b"x")
print(folder, flush=True)
sys.stdin.read()
"""


def claiming(folder: Path, *kept: str) -> subprocess.Popen[str]:
    """A process with a folder of its own below `folder`, or in `kept`, which it names."""
    environ = {**os.environ, "GRADIO_TEMP_DIR": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, *kept], env=environ, stdin=pipe, stdout=pipe, text=True
    )


def named_by(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_uploads_go_with_their_process_even_a_killed_one(folder: Path) -> None:
    killed, lives = claiming(folder), claiming(folder)
    left, used = named_by(killed), named_by(lives)
    killed.kill()
    killed.communicate()
    assert (left / "upload.png").exists()
    for path in (left, used):  # as an hour later
        os.utime(path, (time.time() - 3600,) * 2)
    own = own_folder()
    assert (own.is_dir(), left.exists(), (used / "upload.png").exists()) == (True, False, True)
    lives.communicate("")
    assert not used.exists()


def test_a_folder_that_is_named_outlives_its_process(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = claiming(folder, str(kept))
    assert named_by(first) == kept
    beside = claiming(folder, str(kept))
    assert named_by(beside).parent == folder  # one process at a time has it
    for process in (first, beside):
        process.communicate("")
    assert (kept / "upload.png").exists()
    again = claiming(folder, str(kept))
    assert named_by(again) == kept
    again.communicate("")


def test_a_folder_with_other_files_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    process = claiming(folder, str(tmp_path))
    assert named_by(process).parent == folder
    process.communicate("")
    assert (tmp_path / "mine.txt").exists()


def test_uploads_go_after_a_week(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 100 * FILE_BYTES)
    for name, age_s in (("old", KEPT_AT_MOST_S + 60), ("new", KEPT_AT_MOST_S - 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"x")
        os.utime(tmp_path / name / "a.png", (time.time() - age_s,) * 2)
    assert uploads.begin(1) is not None
    assert [path.parent.name for path in tmp_path.glob("*/a.png")] == ["new"]


# --- what is kept between requests ---


def test_frames_of_all_tabs_are_kept_within_a_bound_and_for_a_time() -> None:
    shelf: Shelf[list[int]] = Shelf(100, 3600, list.clear)
    states = [[number] for number in range(5)]
    for number, state in enumerate(states):
        shelf.put(f"tab {number}", "frames", state, 40)
        shelf.get("tab 0", "frames")
    assert states == [[0], [], [], [], [4]]  # the oldest went, but not what is in use
    shelf.forget("tab 0")
    assert states[0] == []
    assert shelf.bytes == 40
    brief: Shelf[list[int]] = Shelf(100, 0.0, list.clear)
    brief.put("tab", "frames", states[4], 1)
    time.sleep(0.001)
    assert brief.get("another", "frames") is None
    assert states[4] == []


def test_announced_answers_that_nobody_asks_for_are_bounded() -> None:
    runs = Runs()
    running = runs.begin("live", "chat")
    assert runs.take("live", "chat") is running
    for number in range(MOST_RUNS + 10):
        runs.begin(f"forged {number}", "chat")
    assert runs.is_running("live", "chat")
    assert not runs.is_wanted("forged 0", "chat")
    assert runs.is_wanted(f"forged {MOST_RUNS + 9}", "chat")


def ask(chat: Chat, history: list[Any], text: str, *files: str) -> list[Any]:
    _, asked = chat.send(box(text, *files), history, "", request())
    shown = asked
    for shown, _ in chat.answer(asked, KNOBS, request()):  # noqa: B007
        pass
    return shown


def test_each_picture_of_a_conversation_is_decoded_once(folder: Path) -> None:
    path = folder / "p.png"
    Image.new("RGB", (64, 48), "red").save(path)
    engine = ScriptedEngine()
    chat = Chat(engine, Settings(), Runs())
    history: list[Any] = []
    for turn in range(4):
        history = ask(chat, history, f"q{turn}", *([str(path)] if turn == 0 else []))
    sources = [messages[0].images[0].source for messages, _ in engine.requests]
    assert len(sources) == 4
    assert all(source is sources[0] for source in sources)


class SlowPicture:
    """Decodes until it is abandoned."""

    size = (64, 48)
    key = "slow"

    def __init__(self) -> None:
        self.abandoned = threading.Event()

    def decode(self) -> Image.Image:
        assert self.abandoned.wait(20)
        return Image.new("RGB", self.size)

    def abandon(self) -> None:
        self.abandoned.set()


@pytest.mark.parametrize("end", ["stop", "drop"])
def test_stop_and_new_chat_end_a_decoding_under_way(end: str) -> None:
    runs, picture = Runs(), SlowPicture()
    runs.begin("a", "chat")
    run = runs.take("a", "chat")
    assert run is not None
    run.uses([picture])
    decoding = threading.Thread(target=lambda: (picture.decode(), run.finish()), daemon=True)
    decoding.start()
    getattr(runs, end)("a", "chat")
    decoding.join(20)
    assert not decoding.is_alive()


def test_a_frame_waits_in_a_fraction_of_its_memory() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    kept = KeptImage(image)
    assert kept.size == image.size
    assert kept.held_bytes < image.width * image.height * 3 / 10
    assert max(high for _, high in ImageChops.difference(image, kept.decode()).getextrema()) < 8
    assert kept.key == KeptImage(image).key != KeptImage(image.rotate(90)).key


# --- the second Enter, and the cause of trouble ---


def test_a_second_question_while_an_answer_is_announced_stays_in_the_box(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", told.append)
    engine = ScriptedEngine()
    chat = Chat(engine, Settings(), Runs())
    _, asked = chat.send(box("first"), [], "", request())
    again, _ = chat.send(box("first"), [], "", request())
    second, history = chat.send(box("second"), asked, "", request())
    assert again == history == gr.skip()
    assert second == box("second")
    assert len(told) == 2
    *_, (shown, _) = chat.answer(asked, KNOBS, request())
    assert [turn["role"] for turn in shown[:2]] == ["user", "assistant"]
    assert [messages[-1].text for messages, _ in engine.requests] == ["first"]
    _, asked = chat.send(second, shown, "", request())
    assert len(asked) > len(shown)


def test_what_follows_a_refused_question_does_not_take_the_next_ones_answer() -> None:
    chat = Chat(ScriptedEngine(), Settings(), Runs())
    history = ask(chat, [], "first")
    chat.send(box(" "), history, "", request())
    _, asked = chat.send(box("second"), history, "", request())
    late = [shown for shown, _ in chat.answer(history, KNOBS, request())]
    assert late == [gr.skip()]
    *_, (shown, _) = chat.answer(asked, KNOBS, request())
    assert len(shown) > len(asked)


def test_stop_before_an_answer_begins_frees_the_box() -> None:
    chat = Chat(ScriptedEngine(), Settings(), Runs())
    chat.send(box("first"), [], "", request())
    chat.stop(request())
    _, asked = chat.send(box("second"), [], "", request())
    assert asked == user_turns("second", [])


def test_the_banner_says_why_the_server_is_degraded() -> None:
    engine = ScriptedEngine()
    engine.set_status(state="degraded", detail="<b>gpu-box</b> does not answer")
    assert "&lt;b&gt;gpu-box&lt;/b&gt; does not answer" in banner_html(engine.status(), "en")
