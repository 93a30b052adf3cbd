"""The Video tab: a clip, its keyframes with true times, and questions about them.

The handlers; `video_layout` shows and wires them. Frames live in the session's state, compressed
and at most `max_frames` of them, within a bound for all sessions. How frames are found is
`qwen_vl.media.clips`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from qwen_vl.config import Settings
from qwen_vl.conversation import check_conversation
from qwen_vl.engine import Engine
from qwen_vl.errors import UserError
from qwen_vl.heap import trim_heap
from qwen_vl.media.clips import LOOKING, Clip, Method, extract_keyframes
from qwen_vl.media.kept import KeptImage
from qwen_vl.schema import Compact, Message
from qwen_vl.ui.conversation import (
    Conversation,
    index_of,
    session_of,
)
from qwen_vl.ui.examples import Example, spoken_in
from qwen_vl.ui.frames import Frame, seconds, with_frames
from qwen_vl.ui.history import (
    Turn,
    check_paths,
    take_back,
    up_to_question,
    user_turns,
    with_edit,
    with_text,
)
from qwen_vl.ui.markup import plain, toast
from qwen_vl.ui.refusals import told
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.shelf import Shelf
from qwen_vl.ui.sidebar import Knobs
from qwen_vl.ui.strings import language_of, say
from qwen_vl.ui.strip import strip_html, thumbnails

FRAMES_BYTES = 128 * 1024**2  # of all tabs, compressed
FRAMES_KEPT_S = 24 * 3600.0
COMPACT: dict[str, Compact] = {"auto": "auto", "always": True, "never": False}  # as the page says

_UNCHANGED = (gr.skip(),) * 4


class VideoChat(Conversation):
    """The handlers of the Video tab."""

    def __init__(
        self, engine: Engine, settings: Settings, runs: Runs, examples: Sequence[Example] = ()
    ) -> None:
        super().__init__(engine, settings, runs, "video", examples)
        # Gradio keeps the list itself as the session's state; dropped here, it is emptied there.
        self.shown_files: set[str] = set()  # Gradio deletes them with its own, after layout
        self.frames: Shelf[list[Frame]] = Shelf(FRAMES_BYTES, FRAMES_KEPT_S, list.clear)

    def extract(
        self,
        clip: str | None,
        method: Method,
        every_s: float | None,
        count: float | None,
        max_frames: float | None,
        fast: bool,
        request: gr.Request,
        bar: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
    ) -> tuple[Any, ...]:
        """A clip -> (frames, strip, frames to use, what was found or what went wrong)."""
        lang = language_of(request)
        if clip is None:
            return _no_frames(say("no_clip", lang))
        if every_s is None or count is None or max_frames is None:  # an emptied field
            gr.Info(say("no_number", lang))
            return _UNCHANGED
        session = session_of(request)
        self.runs.begin(session, "extract")
        run = self.runs.take(session, "extract")
        if run is None:  # taken over by a later click
            return _UNCHANGED
        try:
            check_paths([clip], Path(get_upload_folder()))
            clips: list[Clip] = []
            # The limit is hidden where a number is asked for.
            most = int(count) if method == "even" else int(max_frames)
            found = extract_keyframes(
                Path(clip),
                method,
                self.settings,
                every_s=every_s,
                count=int(count),
                max_frames=most,
                fast=fast and method in LOOKING,
                on_progress=partial(_show_progress, bar, say("extracting", lang)),
                on_clip=clips.append,
                should_stop=lambda: run.stopped,
            )
        except UserError as error:
            gr.Warning(toast(told(error, lang)))
            return _no_frames(f"⚠️ {plain(told(error, lang))}")
        finally:
            stopped = run.stopped
            self.runs.end(session, "extract", run)
        if stopped:
            return _UNCHANGED
        frames = [Frame(frame.time_s, KeptImage(frame.image)) for frame in found]
        del found
        facts = {"length": seconds(clips[-1].duration_s), "width": clips[-1].width}
        facts |= {"height": clips[-1].height, "last": seconds(frames[-1].time_s)}
        note = say("frames_found", lang, n=len(frames), **facts)
        if method == "even" and len(frames) < int(count):
            note += " " + say("frames_fewer", lang, asked=int(count))
        if clips[-1].damaged_s:
            stretches = (f"{seconds(start)} – {seconds(end)}" for start, end in clips[-1].damaged_s)
            note += " ⚠️ " + say("clip_damaged", lang, stretches=", ".join(stretches))
        return self.shown(frames, note, clip, request)

    def shown(
        self, frames: list[Frame], note: str, clip: str, request: gr.Request
    ) -> tuple[Any, ...]:
        """Keeps these frames for the session. -> (frames, strip, frames to use, note).

        `clip` is the file that they come from; "" without one.
        """
        size_bytes = sum(frame.picture.held_bytes for frame in frames)
        self.frames.put(session_of(request), "frames", frames, size_bytes)
        trim_heap()  # the pixels leave holes that nothing else fills
        pictures = thumbnails(frames)
        self.shown_files.update(pictures)
        strip = strip_html(frames, pictures, clip, language_of(request))
        return frames, strip, _choices(frames), note

    def extract_kept(
        self,
        clip: str | None,
        method: Method,
        every_s: float | None,
        count: float | None,
        max_frames: float | None,
        fast: bool,
        request: gr.Request,
        bar: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
    ) -> tuple[Any, ...]:
        """The frames of the clip that came back with the page, if one did."""
        if clip is None:
            return _UNCHANGED
        return self.extract(clip, method, every_s, count, max_frames, fast, request, bar)

    def leave(self, request: gr.Request) -> None:
        super().leave(request)
        self.frames.forget(session_of(request))

    def ask(
        self,
        question: str,
        history: list[Turn],
        frames: list[Frame],
        kept: list[int],
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Takes the question into the history, or says why not. -> (question, history, buttons)."""
        lang = language_of(request)
        problem = self._problem(frames, kept, lang, request)
        if not problem and not question.strip():
            problem = say("no_question", lang)
        if problem:
            return self._refused(problem, request)
        asked = [*history, *user_turns(question, [])]
        self.begin(request, asked)
        return ("", asked, *buttons_while(True))

    def _refused(self, problem: str, request: gr.Request) -> tuple[Any, ...]:
        gr.Info(problem)
        return (gr.skip(), gr.skip(), *buttons_while(self.is_wanted(request)))

    def _problem(self, frames: list[Frame], kept: list[int], lang: str, request: gr.Request) -> str:
        if self.is_wanted(request):
            return say("busy_here", lang)
        if self.engine.status().is_text_only:
            return say("text_only", lang)
        return "" if frames and kept else say("no_frames", lang)

    def ask_timeline(
        self, history: list[Turn], frames: list[Frame], kept: list[int], request: gr.Request
    ) -> tuple[Any, ...]:
        """`Summarise as a timeline`. The question box stays as it is."""
        prompt = self.engine.status().family.timeline_prompt
        return (gr.skip(), *self.ask(prompt, history, frames, kept, request)[1:])

    def retry(
        self,
        history: list[Turn],
        frames: list[Frame],
        kept: list[int],
        event: gr.RetryData,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Answers the same question anew, about the frames that are chosen now."""
        problem = self._problem(frames, kept, language_of(request), request)
        if problem:
            return self._refused(problem, request)
        asked = up_to_question(history, index_of(event))
        self.begin(request, asked)
        return (gr.skip(), asked, *buttons_while(True))

    def edit(
        self,
        history: list[Turn],
        frames: list[Frame],
        kept: list[int],
        event: gr.EditData,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Asks an earlier question in other words. Drops everything after it."""
        text = event.value if isinstance(event.value, str) else ""
        lang = language_of(request)
        problem = self._problem(frames, kept, lang, request)
        if not problem and not text.strip():
            problem = say("empty_edit", lang)
        if problem:  # the page shows the new text already
            before = with_text(history, index_of(event), event.previous_value)
            return (gr.skip(), before, *self._refused(problem, request)[2:])
        asked = with_edit(history, index_of(event), text)
        self.begin(request, asked)
        return (gr.skip(), asked, *buttons_while(True))

    def undo(self, history: list[Turn], event: gr.UndoData, request: gr.Request) -> tuple[Any, ...]:
        self.drop(request)
        before, text, _ = take_back(history, index_of(event))
        return (text, before, *buttons_while(False))

    def frame_messages(
        self,
        history: Sequence[Turn],
        system_prompt: str,
        frames: Sequence[Frame],
        kept: Sequence[int],
        session: str = "",
        compact: Compact = False,
    ) -> list[Message]:
        self.frames.get(session, "frames")  # in use
        chosen = [frame for index, frame in enumerate(frames) if index in kept]
        if not self.engine.status().family.pairs_frames:
            compact = False
        messages = with_frames(self.messages(history, system_prompt, session), chosen, compact)
        check_conversation(messages, self.settings)
        return messages

    def answer(
        self,
        history: list[Turn],
        frames: list[Frame],
        kept: list[int],
        compact: str,
        knobs: Knobs,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """Streams the answer. Yields (history, question box)."""
        chosen: dict[str, Any] = {"frames": frames, "kept": kept, "compact": COMPACT[compact]}
        make = partial(self.frame_messages, system_prompt=knobs.system_prompt, **chosen)
        for shown, question in self.stream(history, make, knobs, request):
            yield shown, gr.skip() if question is None else question[0]

    def after(self, request: gr.Request) -> tuple[Any, ...]:
        """The buttons when an answer has ended, or was not begun because another is running."""
        return buttons_while(self.is_wanted(request))

    def clear_all(self, request: gr.Request) -> tuple[Any, ...]:
        """A new conversation about this clip; the question box stays as it is."""
        return (gr.skip(), self.clear(request), *buttons_while(False))

    def new_clip(self, request: gr.Request) -> tuple[Any, ...]:
        """Another clip, or none: drops everything of the old one, a running extraction included."""
        self.runs.drop(session_of(request), "extract")
        self.frames.forget(session_of(request))
        return (*self.clear_all(request), *_no_frames())

    def show_examples(self, request: gr.Request) -> Any:
        """The example clips with their questions in the language of the page."""
        spoken = (
            []
            if self.engine.status().is_text_only
            else spoken_in(self.examples, language_of(request))
        )
        samples = [[item.video, item.text] for item in spoken]
        return gr.Dataset(samples=samples, visible=bool(samples))

    def use_example(self, index: int, request: gr.Request) -> tuple[Any, ...]:
        """An example clip with its question. Only its number is taken from the browser."""
        chosen = spoken_in(self.examples, language_of(request))[index]
        self.clear(request)
        return chosen.video, chosen.text, [], *_no_frames()


def _no_frames(note: str = "") -> tuple[Any, ...]:
    """(frames, strip, frames to use, note) of no clip."""
    return [], "", _choices([]), note


def buttons_while(answering: bool) -> tuple[Any, Any, Any]:
    """Ask, timeline and Stop."""
    return (
        gr.Button(interactive=not answering),
        gr.Button(interactive=not answering),
        gr.Button(interactive=answering),
    )


def _choices(frames: Sequence[Frame]) -> Any:
    choices = [(seconds(frame.time_s), index) for index, frame in enumerate(frames)]
    return gr.CheckboxGroup(
        choices=choices, value=[index for _, index in choices], visible=bool(choices)
    )


def _show_progress(bar: gr.Progress, text: str, done: float) -> None:
    bar(done, desc=text)
