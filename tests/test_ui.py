"""The page's handlers, called with plain values and no browser, against a scripted engine."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import gradio as gr
import numpy as np
import pytest
from PIL import Image
from support import clip_files
from support.places import places_told
from support.scripted_engine import READY, SEEING, SPEED, TEXT_ONLY, USAGE, ScriptedEngine, echo
from support.until import PATIENCE_S, until
from test_api import serving

from qwen_vl.config import Settings
from qwen_vl.errors import Busy, TooLarge
from qwen_vl.families import TIMELINE_PROMPT
from qwen_vl.schema import Chunk, EngineStatus, ImagePart, frames_of
from qwen_vl.ui import build, launch_options
from qwen_vl.ui.chat import Chat, add_picture
from qwen_vl.ui.examples import load_examples
from qwen_vl.ui.history import (
    answer_turn,
    is_page_turn,
    page_turn,
    text_block,
    text_of,
    user_turns,
)
from qwen_vl.ui.markup import from_page, to_page
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.sampling import Sampling
from qwen_vl.ui.sidebar import PRESET, SHOWN, Knobs, preset_values
from qwen_vl.ui.status import Watch, banner_html, header_html
from qwen_vl.ui.strings import EN, SCRIPT_EN, SCRIPT_ZH, ZH, language_of
from qwen_vl.ui.video import VideoChat

SETTINGS = Settings()
KNOBS = Knobs(
    sampling={
        **{"temperature": 0.0, "top_p": 1.0, "top_k": 0, "presence_penalty": 0.0},
        **{"max_new_tokens": 64, "seed": None, "stop": "", "max_image_tokens": 256},
    }
)
FRAME_KNOBS = Knobs(sampling={**KNOBS.sampling, "max_image_tokens": 128})
CLIP_FPS = 10
CLIP_SECONDS = 12


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page keeps uploads, for this test alone."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def toasts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(gr, "Info", shown.append)
    monkeypatch.setattr(gr, "Warning", lambda text, duration=10: shown.append(text))
    return shown


def request(session: str = "a", language: str = "en") -> Any:
    return SimpleNamespace(session_hash=session, headers={"accept-language": language})


def event(index: Any, value: Any = None, previous_value: Any = None) -> Any:
    return SimpleNamespace(index=index, value=value, previous_value=previous_value)


def picture(folder: Path, name: str = "p.png", colour: str = "red") -> str:
    path = folder / name
    Image.new("RGB", (64, 48), colour).save(path)
    return str(path)


def chat_with(engine: ScriptedEngine, **settings: Any) -> Chat:
    return Chat(engine, Settings(**settings), Runs())


def box(text: str, *files: str) -> dict[str, Any]:
    return {"text": text, "files": list(files)}


def send(chat: Chat, history: list[Any], text: str, *files: str, who: Any = None) -> list[Any]:
    """Sends and reads the whole answer, as the page's wiring does. Returns the last history."""
    who = who or request()
    _, asked = chat.send(box(text, *files), history, "", who)
    return last(chat.answer(asked, KNOBS, who))


def last(answer: Iterator[tuple[Any, Any]]) -> Any:
    shown = None
    for shown, _ in answer:  # noqa: B007 - the last one is what stays on the page
        pass
    return shown


def spoken(history: list[Any]) -> list[str]:
    """The texts of the conversation itself, without the page's own turns."""
    return [text_of(turn) for turn in history if not is_page_turn(turn)]


def notes(history: list[Any]) -> list[str]:
    page_turns = [turn for turn in history if is_page_turn(turn)]
    return [f"{turn['metadata']['title']} {text_of(turn)}".strip() for turn in page_turns]


# --- asking and answering ---


def test_an_answer_streams_as_growing_text_and_ends_with_its_statistics() -> None:
    engine = ScriptedEngine(lambda _: "one two three four five six", delay_s=0.03)
    chat = chat_with(engine)
    _, asked = chat.send(box("count"), [], "", request())
    texts = [spoken(shown) for shown, _ in chat.answer(asked, KNOBS, request())]
    answers = [turns[1] for turns in texts if len(turns) > 1]
    assert answers[-1] == "one two three four five six"
    assert len(set(answers)) > 2
    assert all(answers[-1].startswith(answer) for answer in answers)
    history = send(chat, [], "again")
    line = notes(history)[-1]
    assert engine.model_id in line
    assert f"{SPEED} tokens/s" in line
    assert "6 new tokens" in line
    assert "first token" in line
    assert f"{USAGE.prompt_tokens} prompt tokens" in line


def test_pictures_of_all_turns_and_only_real_turns_reach_the_model(uploads: Path) -> None:
    engine = ScriptedEngine()
    chat = chat_with(engine)
    history = send(chat, [], "first", picture(uploads, "1.png"), picture(uploads, "2.png"))
    history = send(chat, history, "second")
    history = send(chat, history, "third", picture(uploads, "3.png"))
    messages, _ = engine.requests[-1]
    assert [message.role for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [len(message.images) for message in messages] == [2, 0, 0, 0, 1]
    assert not any("tokens/s" in message.text for message in messages)
    assert isinstance(messages[-1].parts[0], ImagePart)  # pictures before the text
    assert spoken(history)[-1] == "You said: third [3 pictures, 5 messages]"


def test_the_sidebar_reaches_the_engine() -> None:
    able = replace(SEEING, thinking="switched", efforts=("low", "high"))
    engine = ScriptedEngine(status=replace(READY, family=able))
    chat = chat_with(engine)
    chat.begin(request())
    sampling = {
        **{"temperature": 0.3, "top_p": 0.9, "top_k": 11, "min_p": 0.05, "seed": 5},
        **{"repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.4},
        **{"max_new_tokens": 77, "stop": "END\n\nthe end", "max_image_tokens": 320},
        **{"enable_thinking": True, "reasoning_effort": "low"},
    }
    assert set(sampling) == set(SHOWN)
    knobs = Knobs("Be brief.", sampling)
    last(chat.answer(user_turns("hi", []), knobs, request()))
    messages, params = engine.requests[-1]
    assert messages[0].role == "system"
    assert messages[0].text == "Be brief."
    for name, value in sampling.items():
        assert getattr(params, name) == (("END", "the end") if name == "stop" else value)


@pytest.mark.parametrize("seed", [None, -1])
def test_no_seed_means_random(seed: float | None) -> None:
    assert Knobs(sampling={"seed": seed}).params(SETTINGS, SEEING).seed is None


def test_nothing_is_answered_that_was_not_announced() -> None:
    engine = ScriptedEngine()
    assert list(chat_with(engine).answer(user_turns("hi", []), KNOBS, request())) == [
        (gr.skip(), gr.skip())
    ]
    assert engine.requests == []


# --- stopping ---


def test_stop_keeps_the_partial_text_and_cancels_the_request() -> None:
    engine = ScriptedEngine(lambda _: " ".join(["word"] * 500), delay_s=0.01)
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    shown: list[Any] = []
    for shown, _ in chat.answer(asked, KNOBS, request()):
        if len(spoken(shown)) > 1:
            chat.stop(request())
    kept = spoken(shown)[1]
    assert kept.startswith("word")
    assert len(kept.split()) < 500
    line = notes(shown)[-1]
    assert line.endswith("stopped")
    assert f"{len(kept.split())} new tokens" in line
    until(lambda: engine.cancelled == 1)
    engine.delay_s = 0.0
    assert spoken(send(chat, shown, "next"))[1] == kept  # it stays


def test_stop_before_the_answer_has_begun_to_stream_ends_it() -> None:
    engine = ScriptedEngine()
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    chat.stop(request())  # the run is still queued
    assert spoken(last(chat.answer(asked, KNOBS, request()))) == ["go"]
    assert engine.requests == []


def test_stop_works_while_the_engine_is_silent_in_a_long_prefill() -> None:
    engine = ScriptedEngine(threading.Event())
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    titles: list[str] = []
    for shown, _ in chat.answer(asked, KNOBS, request()):
        titles += notes(shown)
        if any("Waiting" in title for title in titles):
            chat.stop(request())
    assert titles[-1].endswith("stopped")
    until(lambda: engine.cancelled == 1)


def test_two_people_neither_see_nor_stop_each_other() -> None:
    engine = ScriptedEngine(lambda messages: f"answer to {messages[-1].text}", delay_s=0.02)
    chat = chat_with(engine)
    ann, bob = request("ann"), request("bob")
    _, asked_a = chat.send(box("ann"), [], "", ann)
    _, asked_b = chat.send(box("bob"), [], "", bob)
    answer_a, answer_b = (
        chat.answer(asked_a, KNOBS, ann),
        chat.answer(asked_b, KNOBS, bob),
    )
    next(answer_a), next(answer_b)
    chat.stop(ann)
    assert notes(last(answer_a))[-1].endswith("stopped")
    history_b = last(answer_b)
    assert spoken(history_b) == ["bob", "answer to bob"]
    assert "stopped" not in notes(history_b)[-1]


def test_a_closed_tab_cancels_its_request() -> None:
    engine = ScriptedEngine(lambda _: " ".join(["word"] * 500), delay_s=0.01)
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    answer = chat.answer(asked, KNOBS, request())
    while len(spoken(next(answer)[0])) < 2:
        pass
    answer.close()
    until(lambda: engine.cancelled == 1)
    assert not chat.is_wanted(request())


def test_leaving_the_page_cancels_what_waits_for_its_first_word() -> None:
    engine = ScriptedEngine(threading.Event())
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    answer = chat.answer(asked, KNOBS, request())
    while not engine.requests:
        next(answer)
    chat.leave(request())
    until(lambda: engine.cancelled == 1)
    assert list(answer) == [(gr.skip(), gr.skip())]  # changes nothing on the page


def test_a_second_question_waits_for_the_first_answer(toasts: list[str]) -> None:
    chat = chat_with(ScriptedEngine(delay_s=0.05))
    _, asked = chat.send(box("first"), [], "", request())
    answer = chat.answer(asked, KNOBS, request())
    next(answer)
    kept_box, kept_history = chat.send(box("second"), asked, "", request())
    assert kept_box == kept_history == gr.skip()
    assert toasts == [EN["busy_here"]]
    assert list(chat.answer(asked, KNOBS, request())) == [(gr.skip(), gr.skip())]  # refused
    assert chat.after(request()).constructor_args["stop_btn"] is True  # Stop stays
    assert spoken(last(answer))[0] == "first"
    assert chat.after(request()).constructor_args["stop_btn"] is False


# --- Retry, Undo, Edit, Clear ---


def conversation(uploads: Path) -> tuple[Chat, ScriptedEngine, list[Any]]:
    engine = ScriptedEngine()
    chat = chat_with(engine)
    history = send(chat, [], "one", picture(uploads))
    return chat, engine, send(chat, history, "two")


def test_retry_asks_the_same_again(uploads: Path) -> None:
    chat, engine, history = conversation(uploads)
    _, asked = chat.retry(history, event(len(history) - 1), request())
    again = last(chat.answer(asked, KNOBS, request()))
    assert spoken(again) == spoken(history)
    assert engine.requests[-1][0] == engine.requests[-2][0]


def test_undo_puts_text_and_pictures_back_into_the_box(uploads: Path) -> None:
    chat, _, history = conversation(uploads)
    update, before = chat.undo(history, event(len(history) - 1), request())
    assert update.constructor_args["value"] == box("two")
    update, before = chat.undo(before, event(len(before) - 1), request())
    assert update.constructor_args["value"] == box("one", str(uploads / "p.png"))
    assert before == []


def test_edit_drops_what_came_after_and_keeps_the_picture(uploads: Path) -> None:
    chat, engine, history = conversation(uploads)
    _, asked = chat.edit(history, event(1, "changed"), request())
    edited = last(chat.answer(asked, KNOBS, request()))
    assert spoken(edited)[-1] == "You said: changed [1 pictures, 1 messages]"
    assert len(engine.requests[-1][0]) == 1


def test_an_empty_edit_changes_nothing(uploads: Path, toasts: list[str]) -> None:
    chat, _, history = conversation(uploads)
    emptied = [*history[:1], {**history[1], "content": [text_block("  ")]}, *history[2:]]
    assert chat.edit(emptied, event(1, "  ", "one"), request())[1] == history
    assert toasts == [EN["empty_edit"]]


def test_html_in_a_question_is_shown_and_reaches_the_model_as_it_was() -> None:
    asked = "What does <script>x</script> do, and &lt;b> or `<i>`?"
    engine = ScriptedEngine()
    chat = chat_with(engine)
    history = send(chat, [], asked)
    assert "<script>" not in text_of(history[0])
    assert engine.requests[-1][0][0].text == asked
    update, _ = chat.undo(history, event(len(history) - 1), request())
    assert update.constructor_args["value"] == box(asked)
    _, edited = chat.edit(history, event(0, text_of(history[0]) + "!"), request())
    assert edited == user_turns(f"{asked}!", [])


def test_an_unanswered_question_stays_apart_from_the_next() -> None:
    engine = ScriptedEngine(Busy("Try again later."))
    chat = chat_with(engine)
    history = send(chat, [], "What colour is it?")
    send(chat, history, "How many are there?")
    (message,) = engine.requests[-1][0]
    assert message.text == "What colour is it?\n\nHow many are there?"


def test_clear_ends_a_running_answer_which_shows_nothing_more() -> None:
    engine = ScriptedEngine(lambda _: " ".join(["word"] * 500), delay_s=0.01)
    chat = chat_with(engine)
    _, asked = chat.send(box("go"), [], "", request())
    answer = chat.answer(asked, KNOBS, request())
    next(answer)
    late: list[Any] = []
    reader = threading.Thread(target=lambda: late.extend(answer))
    reader.start()
    until(lambda: len(late) > 0)
    assert chat.clear(request()) == []
    shown_by_then = len(late)
    reader.join(PATIENCE_S)
    assert len(late) == shown_by_then
    until(lambda: engine.cancelled == 1)


def test_an_example_runs_by_its_number_alone(uploads: Path) -> None:
    (uploads / "prompts.json").write_text(
        '[{"images": ["p.png"], "video": null, "text": "What is this?"},'
        ' {"images": ["gone.png"], "video": null, "text": "missing file"},'
        ' {"images": [], "video": "p.png", "text": "clip"}]'
    )
    path = picture(uploads)
    examples = load_examples(uploads)
    assert [(item.text, item.images, item.video) for item in examples] == [
        ("What is this?", (path,), None),
        ("clip", (), path),
    ]
    chat = Chat(ScriptedEngine(), SETTINGS, Runs(), examples[:1])
    forged = event(0, {"text": "other", "files": ["/etc/passwd"]})
    _, asked = chat.example(forged, request())
    answer = spoken(last(chat.answer(asked, KNOBS, request())))
    assert answer[-1] == "You said: What is this? [1 pictures, 1 messages]"


def test_a_text_only_model_offers_no_examples(uploads: Path, toasts: list[str]) -> None:
    engine = ScriptedEngine()
    examples = load_examples()
    chat, video = (kind(engine, SETTINGS, Runs(), examples) for kind in (Chat, VideoChat))
    assert chat.show_examples(request()).examples
    assert video.show_examples(request()).visible
    engine.set_status(family=TEXT_ONLY)
    assert not chat.show_examples(request()).examples
    assert not video.show_examples(request()).visible
    assert chat.example(event(0), request())[1] == gr.skip()  # a card from before it was loaded
    assert toasts == [EN["text_only"]]


def test_without_a_prompts_file_there_are_no_examples(tmp_path: Path) -> None:
    assert load_examples(tmp_path) == []


# --- errors lose nothing ---


def test_a_broken_picture_is_refused_and_stays_in_the_box(uploads: Path, toasts: list[str]) -> None:
    (uploads / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    chat = chat_with(ScriptedEngine())
    result = chat.send(box("what?", str(uploads / "broken.png")), [], "", request())
    assert result == (gr.skip(), gr.skip())
    assert len(toasts) == 1


def test_a_path_that_was_not_uploaded_is_never_read(tmp_path: Path, toasts: list[str]) -> None:
    chat = chat_with(ScriptedEngine())
    outside = picture(tmp_path)
    assert chat.send(box("what?", outside), [], "", request()) == (gr.skip(), gr.skip())
    chat.begin(request())
    forged = user_turns("what?", [outside])
    history = last(chat.answer(forged, KNOBS, request()))
    assert history == []
    assert "not uploaded here" in toasts[-1]
    assert chat.engine.requests == []  # type: ignore[attr-defined]


def test_an_empty_question_is_not_sent(toasts: list[str]) -> None:
    assert chat_with(ScriptedEngine()).send(box("  "), [], "", request()) == (gr.skip(), gr.skip())
    assert toasts == [EN["nothing_to_send"]]


def test_busy_keeps_the_question_in_the_chat_for_retry() -> None:
    engine = ScriptedEngine(Busy("The queue is full: try again in 5 seconds."))
    chat = chat_with(engine)
    history = send(chat, [], "hello")
    assert spoken(history) == ["hello"]
    assert "The queue is full: try again in 5 seconds." in notes(history)[-1]
    engine.steps = [echo]
    _, asked = chat.retry(history, event(len(history) - 1), request())
    assert spoken(last(chat.answer(asked, KNOBS, request())))[-1].startswith("You said: hello")


def test_a_question_that_is_too_long_goes_back_to_the_box(uploads: Path, toasts: list[str]) -> None:
    chat, engine, before = conversation(uploads)
    engine.steps = [TooLarge("Too many tokens: shorten the text.")]
    path = picture(uploads)
    _, asked = chat.send(box("hello", path), before, "", request())
    *_, (history, back) = chat.answer(asked, KNOBS, request())
    assert history == before  # nothing under the last answer that Retry could take for its own
    assert toasts == ["Too many tokens: shorten the text."]
    assert back == box("hello", path)


def test_an_error_midway_keeps_the_text_so_far() -> None:
    engine = ScriptedEngine("one", " two", Busy("Later."))
    history = send(chat_with(engine), [], "go")
    assert spoken(history) == ["go", "one two"]
    assert "Later." in notes(history)[-1]


def test_a_bug_in_the_engine_is_logged_and_told_without_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine(RuntimeError("secret detail"))
    history = send(chat_with(engine), [], "go")
    assert spoken(history) == ["go"]
    assert EN["broken"] in notes(history)[-1]
    assert "secret detail" not in str(history)
    assert "secret detail" in caplog.text


def test_a_limit_on_characters_is_told_before_anything_is_sent(toasts: list[str]) -> None:
    chat = chat_with(ScriptedEngine(), max_prompt_chars=10)
    assert chat.send(box("x" * 11), [], "", request()) == (gr.skip(), gr.skip())
    assert "limit of 10" in toasts[0]


# --- loading, failing, text-only models ---


def test_a_question_asked_while_the_model_loads_is_answered_afterwards() -> None:
    engine = ScriptedEngine()
    engine.set_status(state="loading", detail="Reading weights", progress=0.4)
    chat = chat_with(engine)
    _, asked = chat.send(box("hello"), [], "", request())
    titles: list[str] = []
    shown: list[Any] = []
    for shown, _ in chat.answer(asked, KNOBS, request()):
        titles += notes(shown)
        if any("Reading weights 40%" in title for title in titles):
            engine.set_status(state="ready")
    assert spoken(shown)[-1].startswith("You said: hello")
    assert not any("loading" in title for title in notes(shown))


def test_a_model_that_could_not_be_loaded_says_why_and_keeps_the_question() -> None:
    engine = ScriptedEngine()
    engine.set_status(state="failed", detail="No such model. Check --model.")
    history = send(chat_with(engine), [], "hello")
    assert spoken(history) == ["hello"]
    assert "No such model. Check --model." in notes(history)[-1]


def test_a_text_only_model_takes_no_pictures(uploads: Path, toasts: list[str]) -> None:
    engine = ScriptedEngine()
    engine.set_status(family=TEXT_ONLY)
    chat = chat_with(engine)
    assert chat.send(box("what?", picture(uploads)), [], "", request())[1] == gr.skip()
    assert toasts == [EN["text_only"]]
    *_, box_now, webcam = Watch(engine, SETTINGS).look("", request())[:6]
    assert box_now.constructor_args["sources"] == []
    assert webcam.constructor_args["visible"] is False
    assert EN["text_only"] in banner_html(engine.status(), "en")


def test_the_header_tells_model_state_device_and_reason_and_escapes_them() -> None:
    status = EngineStatus(
        "loading", "<b>x</b>", "50 % of <i>weights</i>", 0.5, "cpu", "float32", "fastest", "Demo!"
    )
    header, banner = header_html(status, "en"), banner_html(status, "en")
    assert "&lt;b&gt;x" in header
    assert "50%" in header
    assert "cpu · float32" in header
    assert "fastest" in header
    assert "&lt;i&gt;weights" in banner
    assert "Demo!" in banner


def test_the_watch_sets_the_recommended_sampling_once_the_model_is_known() -> None:
    engine = ScriptedEngine()
    engine.set_status(state="loading", progress=None)
    watch = Watch(engine, SETTINGS)
    seen = watch.look("", request())[3]
    assert all(update == gr.skip() for update in watch.look(seen, request()))
    engine.set_status(state="ready")
    updates = watch.look(seen, request())
    values = dict(zip(PRESET, updates[6:], strict=False))
    think, effort, model = updates[-3:]
    assert model  # what tells the page to put a visitor's own values back
    assert not think.constructor_args["visible"]
    assert not effort.constructor_args["visible"]
    head = list(updates[:4])
    assert head[2].constructor_args["value"] > 1  # the timer
    preset = SEEING.preset(has_images=True)
    slider = values.pop("max_new_tokens")
    assert slider.constructor_args["maximum"] == SETTINGS.max_new_tokens
    assert values == {name: getattr(preset, name) for name in PRESET if name in values}
    engine.set_status(state="degraded", detail="A request failed")
    again = watch.look(head[3], request())
    assert "degraded" in again[0]
    assert all(update == gr.skip() for update in again[4:])  # a visitor's own values stay
    engine.set_status(state="failed", detail="No server answers")
    gone = watch.look(again[3], request())
    engine.set_status(state="ready", detail="")
    back = watch.look(gone[3], request())
    assert "ready" in back[0]
    assert all(update == gr.skip() for update in back[4:])  # it is the same model again


def test_reset_follows_the_conversation(uploads: Path) -> None:
    sampling = Sampling(ScriptedEngine(), SETTINGS)
    with_pictures = user_turns("hi", [picture(uploads)])
    values = preset_values(SEEING, True, SETTINGS)
    assert sampling.reset(with_pictures, False) == ["balanced", "balanced", 1280, *values]
    values = preset_values(SEEING, False, SETTINGS)
    assert sampling.reset(user_turns("hi", []), False)[3:] == values


def test_reset_follows_the_switch_where_there_is_one() -> None:
    able = replace(SEEING, thinking="switched")
    sampling = Sampling(ScriptedEngine(status=replace(READY, family=able)), SETTINGS)
    for thinks in (True, False):
        expected = preset_values(able, True, SETTINGS, thinks)
        assert sampling.styled(None, [], thinks) == expected
    assert sampling.styled(None, [], True) != sampling.styled(None, [], False)


def test_no_wish_is_sent_to_a_model_without_a_switch() -> None:
    knobs = Knobs(sampling={"enable_thinking": False, "reasoning_effort": "high"})
    params = knobs.params(SETTINGS, SEEING)
    assert (params.enable_thinking, params.reasoning_effort) == (None, None)


# --- what the page adds, and what it keeps from being rendered ---


def test_thoughts_are_shown_apart_and_not_sent_back() -> None:
    engine = ScriptedEngine(Chunk(thought="let me see"), "The answer.")
    chat = chat_with(engine)
    history = send(chat, [], "why?")
    assert spoken(history) == ["why?", "The answer."]
    titles = [turn.get("metadata", {}).get("title", "") for turn in history]
    thought = history[next(i for i, title in enumerate(titles) if "Thought for" in title)]
    assert text_of(thought) == "let me see"
    send(chat, history, "and?")
    asked = engine.requests[-1][0]
    assert "let me see" not in "".join(message.text for message in asked)
    assert [message.thought for message in asked] == ["", "let me see", ""]


def test_an_answer_of_blanks_alone_says_so() -> None:
    history = send(chat_with(ScriptedEngine(lambda _: "\n \n")), [], "why?")
    assert spoken(history) == ["why?"]
    assert notes(history)[0] == EN["empty_answer"]


def test_places_in_an_answer_are_shown_and_not_sent_back(uploads: Path) -> None:
    answer = '```json\n[{"bbox_2d": [100, 100, 900, 900], "label": "square"}]\n```'
    engine = ScriptedEngine(lambda _: answer)
    chat = chat_with(engine)
    history = send(chat, [], "where?", picture(uploads))
    shown = history[-2]
    assert is_page_turn(shown)
    (told,) = places_told(shown)["pictures"]
    assert told["marks"] == [{"at": [100, 100, 900, 900], "label": "square"}]
    with Image.open(told["path"]) as image:  # nothing is drawn into it
        assert image.size == (told["width"], told["height"]) == (64, 48)
        assert len(image.convert("RGB").getcolors(maxcolors=64 * 48) or []) == 1
    send(chat, history, "thanks")
    assert sum(len(message.images) for message in engine.requests[-1][0]) == 1
    assert engine.requests[-1][0][1].text == answer


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "1 < 2 && 3 > 2",
        "already &lt;escaped&gt; &amp;lt;",
        "`<b>` and ```html\n<p>\n``` then <p>",
        "```html\n<p>unfinished",
        "Press the ` key.\n\n<b>big</b>\n\nThen ` again, or \\`<b>x</b>\\`",
    ],
)
def test_html_from_the_model_is_shown_as_text_and_given_back_as_written(text: str) -> None:
    shown = to_page(text)
    assert from_page(shown) == text
    assert not re.search("<[a-zA-Z/!?]", shown)  # in code, too: no parser can take it for a tag


def test_the_model_gets_its_own_html_back_unchanged() -> None:
    engine = ScriptedEngine(lambda _: "Use <br> & `<p>`.")
    chat = chat_with(engine)
    history = send(chat, [], "how?")
    assert text_of(history[1]) == to_page("Use <br> & `<p>`.")
    send(chat, history, "thanks")
    assert engine.requests[-1][0][1].text == "Use <br> & `<p>`."


def test_a_webcam_picture_joins_what_is_in_the_box() -> None:
    assert add_picture(box("hi", "a.png"), "b.png") == (box("hi", "a.png", "b.png"), None)
    assert add_picture(None, "b.png") == (box("", "b.png"), None)


def test_both_languages_say_the_same_things() -> None:
    for english, chinese in ((EN, ZH), (SCRIPT_EN, SCRIPT_ZH)):
        assert english.keys() == chinese.keys()
        for key, text in english.items():
            fields = {part.split("}")[0] for part in text.split("{")[1:]}
            assert fields == {part.split("}")[0] for part in chinese[key].split("{")[1:]}, key
    assert language_of(request(language="zh-CN,zh;q=0.9,en;q=0.8")) == "zh"
    assert language_of(request(language="fr,zh;q=0.5")) == "en"
    for chinese in ("zh", "zh-HK", "zh-TW", "zh-Hans"):
        assert language_of(request(language=chinese)) == "zh"


def test_the_page_builds_and_exposes_its_two_endpoints_alone() -> None:
    demo = build(ScriptedEngine(), SETTINGS)
    assert set(demo.get_api_info()["named_endpoints"]) == {"/ask", "/keyframes"}
    shown = [fn for fn in demo.fns.values() if fn.fn is not None and fn.api_visibility != "private"]
    assert {fn.api_name for fn in shown} == {"ask", "keyframes"}
    options = launch_options(Settings(max_video_mb=50))
    assert options["max_file_size"] == 50 * 1024 * 1024


# --- video ---


def clip(folder: Path, name: str = "clip.avi", seconds: int = CLIP_SECONDS) -> str:
    """A clip whose colour tells the second: channel red is 20 times it."""
    path = folder / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), CLIP_FPS, (64, 48))
    for index in range(seconds * CLIP_FPS):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * (index // CLIP_FPS)), np.uint8))
    writer.release()
    return str(path)


def video_with(engine: ScriptedEngine, **settings: Any) -> VideoChat:
    return VideoChat(engine, Settings(**settings), Runs())


def extracted(video: VideoChat, path: str, *how: Any) -> list[Any]:
    frames, strip, choices, note = video.extract(
        path, *how, False, request(), lambda *_, **__: None
    )
    assert strip.count('type="checkbox"') == len(frames)
    assert all(f'data-at="{frame.time_s}"' in strip for frame in frames)
    assert choices.constructor_args["value"] == list(range(len(frames)))
    assert str(len(frames)) in note
    return list(frames)


def second_of(image: Image.Image) -> int:
    return round(np.asarray(image)[24, 32, 0] / 20)


def test_frames_carry_their_true_times(uploads: Path) -> None:
    video = video_with(ScriptedEngine())
    path = clip(uploads)
    frames = extracted(video, path, "interval", 5, 8, 16)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 5, 10])
    assert [second_of(frame.picture.decode()) for frame in frames] == [0, 5, 10]
    assert len(extracted(video, path, "even", 5, 4, 16)) == 4
    assert len(extracted(video, path, "interval", 1, 8, 3)) == 3


def test_a_clip_gives_the_same_pictures_on_the_page_and_in_the_api(uploads: Path) -> None:
    large = (cv2.resize(clip_files.frame(i), (1600, 800)) for i in range(30))
    path = clip_files.write(uploads / "large.mp4", large)
    frames = extracted(video_with(ScriptedEngine()), str(path), "interval", 1, 8, 16)

    engine = ScriptedEngine("a")
    address = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    part = {"type": "video_url", "video_url": {"url": address}, "every_s": 1}
    with serving(engine, Settings()) as client:
        content = [part, {"type": "text", "text": "What happens?"}]
        asked = {"messages": [{"role": "user", "content": content}]}
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
    sent = engine.requests[0][0][0].images
    assert [frame.time_s for frame in frames] == [part.time_s for part in sent]
    for frame, part in zip(frames, sent, strict=True):
        assert max(part.size) < 1600
        assert frame.picture.decode().tobytes() == part.image.tobytes()


def test_broken_clips_say_so_and_show_no_frames(uploads: Path, toasts: list[str]) -> None:
    video = video_with(ScriptedEngine())
    (uploads / "empty.mp4").write_bytes(b"")
    result = video.extract(str(uploads / "empty.mp4"), "interval", 5, 8, 16, False, request())
    assert (result[0], result[1]) == ([], "")
    assert toasts[0] in result[3]
    assert video.extract(None, "interval", 5, 8, 16, False, request())[3] == EN["no_clip"]


def test_a_clip_that_was_not_uploaded_is_never_read(tmp_path: Path, toasts: list[str]) -> None:
    video = video_with(ScriptedEngine())
    frames, *_ = video.extract(clip(tmp_path), "interval", 5, 8, 16, False, request())
    assert frames == []
    assert "not uploaded here" in toasts[0]


def ask(video: VideoChat, history: list[Any], question: str, frames: Any, kept: Any) -> list[Any]:
    _, asked, *_ = video.ask(question, history, frames, kept, request())
    return last(video.answer(asked, frames, kept, "auto", FRAME_KNOBS, request()))


def test_the_chosen_frames_go_first_in_order_with_their_times(uploads: Path) -> None:
    engine = ScriptedEngine()
    video = video_with(engine)
    frames = extracted(video, clip(uploads), "interval", 2, 8, 16)
    kept = [4, 0, 2]  # ticked in any order
    history = ask(video, [], "What happens?", frames, kept)
    history = ask(video, history, "And then?", frames, kept)
    messages, params = engine.requests[-1]
    assert [part.time_s for part in messages[0].images] == pytest.approx([0, 4, 8])
    assert [second_of(part.image) for part in messages[0].images] == [0, 4, 8]
    assert messages[0].text == "What happens?"
    assert [len(message.images) for message in messages] == [3, 0, 0]
    assert params.max_image_tokens == 128
    assert spoken(history)[-1] == "You said: And then? [3 pictures, 3 messages]"


def test_n_frames_asked_are_n_frames_whatever_the_hidden_limit_says(uploads: Path) -> None:
    video = video_with(ScriptedEngine())
    assert len(extracted(video, clip(uploads), "even", 5, 20, 16)) == 20


def test_frames_in_pairs_are_told_under_the_answer(uploads: Path) -> None:
    engine = ScriptedEngine()
    video = video_with(engine)
    frames = extracted(video, clip(uploads), "interval", 2, 8, 16)
    asked = user_turns("What happens?", [])
    video.begin(request(), asked)
    history = last(video.answer(asked, frames, [0, 1, 2], "always", FRAME_KNOBS, request()))
    (message,) = engine.requests[-1][0]
    assert [len(frames_of(part)) for part in message.images] == [2, 1]
    assert EN["compact_used"] in notes(history)
    video.begin(request(), asked)
    history = last(video.answer(asked, frames, [0, 1], "auto", FRAME_KNOBS, request()))
    assert EN["compact_used"] not in notes(history)


def test_frames_that_the_server_has_lost_are_told(uploads: Path, toasts: list[str]) -> None:
    video = video_with(ScriptedEngine())
    asked = video.retry(user_turns("what?", []), [], [0], event(0), request())
    assert asked[1] == gr.skip()
    assert not video.is_wanted(request())
    assert toasts == [EN["no_frames"]]


@pytest.mark.parametrize("how", [(None, 8, 16), (5, None, 16), (5, 8, None)])
def test_an_emptied_number_is_told_and_the_frames_stay(
    how: tuple[Any, ...], uploads: Path, toasts: list[str]
) -> None:
    video = video_with(ScriptedEngine())
    result = video.extract(clip(uploads), "interval", *how, False, request())
    assert result == (gr.skip(),) * 4
    assert toasts == [EN["no_number"]]


def test_another_clip_ends_the_reading_of_the_old_one(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = video_with(ScriptedEngine())
    begun, reads = threading.Event(), []

    def slowly(*_: Any, should_stop: Any, **__: Any) -> list[Any]:
        begun.set()
        until(should_stop)
        return []

    monkeypatch.setattr("qwen_vl.ui.video.extract_keyframes", slowly)
    path = clip(uploads)
    reader = threading.Thread(
        target=lambda: reads.append(video.extract(path, "interval", 5, 8, 16, False, request()))
    )
    reader.start()
    assert begun.wait(PATIENCE_S)
    *_, frames, strip, kept, note = video.new_clip(request())
    assert (frames, strip, kept.constructor_args["value"], note) == ([], "", [], "")
    reader.join(PATIENCE_S)
    assert reads == [(gr.skip(),) * 4]


@pytest.mark.parametrize(
    ("question", "frames", "told"),
    [("what?", [], "no_frames"), ("what?", ["left out"], "no_frames"), (" ", None, "no_question")],
)
def test_a_question_about_a_clip_needs_frames_and_words(
    question: str, frames: Any, told: str, uploads: Path, toasts: list[str]
) -> None:
    video = video_with(ScriptedEngine())
    found = extracted(video, clip(uploads), "interval", 5, 8, 16)
    kept = [0] if frames is None else []
    result = video.ask(question, [], found if frames is None else frames, kept, request())
    assert result[1] == gr.skip()
    assert toasts == [EN[told]]


def test_a_text_only_model_is_not_asked_about_clips(uploads: Path, toasts: list[str]) -> None:
    engine = ScriptedEngine()
    engine.set_status(family=TEXT_ONLY)
    video = video_with(engine)
    frames = extracted(video, clip(uploads), "interval", 5, 8, 16)
    assert video.ask("what?", [], frames, [0], request())[1] == gr.skip()
    assert toasts == [EN["text_only"]]


def test_the_timeline_button_asks_for_a_timeline(uploads: Path) -> None:
    engine = ScriptedEngine(lambda _: "0.0 s: black\n5.0 s: red")
    video = video_with(engine)
    frames = extracted(video, clip(uploads), "interval", 5, 8, 16)
    _, asked, *_ = video.ask_timeline([], frames, [0, 1, 2], request())
    assert text_of(asked[0]).startswith(TIMELINE_PROMPT)
    history = last(video.answer(asked, frames, [0, 1, 2], "never", FRAME_KNOBS, request()))
    assert spoken(history)[-1] == "0.0 s: black\n5.0 s: red"


def test_a_question_about_a_clip_is_edited_as_in_chat(uploads: Path, toasts: list[str]) -> None:
    engine = ScriptedEngine()
    video = video_with(engine)
    frames = extracted(video, clip(uploads), "interval", 5, 8, 16)
    history = ask(video, [], "first", frames, [0, 1])
    history = ask(video, history, "second", frames, [0, 1])
    _, asked, *_ = video.edit(history, frames, [0], event(0, "changed", "first"), request())
    history = last(video.answer(asked, frames, [0], "never", FRAME_KNOBS, request()))
    assert spoken(history) == ["changed", "You said: changed [1 pictures, 1 messages]"]
    _, kept, *_ = video.edit(history, frames, [0], event(0, " ", "changed"), request())
    assert spoken(kept) == spoken(history)
    assert toasts == [EN["empty_edit"]]


def test_too_many_frames_for_a_conversation_are_told(uploads: Path, toasts: list[str]) -> None:
    video = video_with(ScriptedEngine(), max_images=2)
    frames = extracted(video, clip(uploads), "interval", 5, 8, 16)
    history = ask(video, [], "what?", frames, [0, 1, 2])
    assert "limit of 2" in toasts[-1]
    assert history == []


def test_history_helpers_keep_indentation_and_titles() -> None:
    assert text_of(answer_turn("    indented")) == "    indented"
    assert is_page_turn(page_turn("note"))
    assert not is_page_turn(answer_turn("x"))
