"""A conversation on one tab of the page: asking, streaming, stopping, taking back.

Joins history (the Chatbot value), the engine and the runs of each browser tab. Knows nothing of
layout; the chat and video tabs add what is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import UserError
from qwen_vl.media.pictures import open_image
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, Undecoded, is_paired
from qwen_vl.ui.answers import error_turn, progress, turns_of, wait_until_ready
from qwen_vl.ui.chatbot import from_chatbot
from qwen_vl.ui.examples import Example
from qwen_vl.ui.history import (
    Turn,
    check_files,
    files_of,
    is_page_turn,
    page_turn,
    take_back,
    text_block,
    text_of,
)
from qwen_vl.ui.markup import from_page, toast
from qwen_vl.ui.places import Places
from qwen_vl.ui.refusals import told
from qwen_vl.ui.runs import Run, Runs
from qwen_vl.ui.shelf import Shelf
from qwen_vl.ui.sidebar import Knobs
from qwen_vl.ui.strings import language_of, say
from qwen_vl.ui.tasks import task_of

# The request itself is at fault: the question goes back to the box, where it can be changed.
ASKERS_FAULT = (400, 404, 413, 415, 422)
REFUSAL_SHOWN_S = 30

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# Quick handlers go through the queue as well: without it Gradio drops gr.Info and gr.Warning.
SOON: dict[str, Any] = {"concurrency_limit": None, **QUIET}
UNQUEUED: dict[str, Any] = {"queue": False, **QUIET}  # Stop, which must not wait behind anything
PICTURES_BYTES = 256 * 1024**2  # decoded pictures that are kept for the next turns, of all tabs
PICTURES_KEPT_S = 3600.0
ANSWERS_AT_ONCE = 64  # on the page; how many really run is the engine's to bound

Question = tuple[str, list[str]]  # text and file paths
# The last thing an answer says that was dropped or never begun. Gradio sends a generator's last
# value once more when it has ended, which would bring back what was just cleared; where there was
# no value at all it sends None, which clears everything.
UNCHANGED = (gr.skip(), None)


class MakeMessages(Protocol):
    def __call__(self, history: Sequence[Turn], *, session: str) -> list[Message]: ...


def session_of(request: gr.Request) -> str:
    return request.session_hash or ""


def index_of(event: Any) -> int:
    """The number of the turn, frame or example that an event is about."""
    return int(event.index if isinstance(event.index, int) else event.index[0])


class Conversation:
    """The handlers that both tabs share. `place` keeps the runs of the two tabs apart."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        runs: Runs,
        place: str,
        examples: Sequence[Example] = (),
    ) -> None:
        self.engine = engine
        self.examples = list(examples)
        self.settings = settings
        self.runs = runs
        self.place = place
        self.pictures: Shelf[Undecoded] = Shelf(PICTURES_BYTES, PICTURES_KEPT_S)

    def begin(
        self,
        request: gr.Request,
        asked: Sequence[Turn] | None = None,
        question: object = None,
    ) -> None:
        """Announces the answer to `asked`, so that Stop works even while it is queued."""
        turns = None if asked is None else len(asked)
        self.runs.begin(session_of(request), self.place, question, turns)

    def announced(self, request: gr.Request) -> Run | None:
        """The answer that is being written or announced: until it ends, nothing else is asked."""
        return self.runs.wanted(session_of(request), self.place)

    def is_wanted(self, request: gr.Request) -> bool:
        """Whether an answer is being written or announced: then the page shows Stop."""
        return self.runs.is_wanted(session_of(request), self.place)

    def stop(self, request: gr.Request) -> None:
        """Stop: ends this tab's answer and keeps its text so far."""
        self.runs.stop(session_of(request), self.place)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.runs.forget(session_of(request))
        self.pictures.forget(session_of(request))

    def clear(self, request: gr.Request) -> list[Turn]:
        """New chat: ends a running answer, hides the rest of it, and empties the history."""
        self.drop(request)
        self.pictures.forget(session_of(request))
        return []

    def drop(self, request: gr.Request) -> None:
        """Ends this tab's answer and hides the rest of it."""
        self.runs.drop(session_of(request), self.place)

    def messages(
        self, history: Sequence[Turn], system_prompt: str, session: str = ""
    ) -> list[Message]:
        """The conversation as the engine takes it, nothing of it decoded.

        Raises UserError when a limit is broken.
        """
        check_files(history, Path(get_upload_folder()))
        turns = [_as_written(turn) for turn in history]
        opened = partial(self.opened, session)
        return from_chatbot(turns, system_prompt, self.settings, opened)

    def opened(self, session: str, path: Path) -> Undecoded:
        """The picture in a file, the same object for all turns: so it is decoded once."""
        kept = self.pictures.get(session, path)
        if kept is None:
            kept = open_image(path, self.settings)
            width, height = kept.size
            self.pictures.put(session, path, kept, width * height * 3 + path.stat().st_size)
        return kept

    def stream(
        self,
        history: list[Turn],
        make_messages: MakeMessages,
        knobs: Knobs,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Question | None]]:
        """Answers the last question of `history`, if `begin` announced it.

        Yields the history to show, and the question when it has to go back to the box.
        """
        session, lang = session_of(request), language_of(request)
        run = self.runs.take(session, self.place, len(history))
        if run is None:
            yield UNCHANGED
            return
        shown: list[Turn] = [page_turn("…", status="pending")]
        try:
            yield [*history, *shown], None
            for now in wait_until_ready(self.engine, run, lang):
                yield [*history, *turns_of(now, self.engine.status(), lang)], None
            params = knobs.params(self.settings, self.engine.status().family)
            messages = make_messages(history, session=session)
            params = self.shaped(params, messages[-1].text)
            pictures = [part for message in messages for part in message.images]
            run.uses([part.source for part in pictures if not isinstance(part.source, Image.Image)])
            places = self.places_in(messages, params)
            in_pairs = any(is_paired(part) for part in pictures)
            status = self.engine.status()
            coming = progress(self.engine, messages, params, f"page {session}", run, lang)
            del messages, pictures  # the others are not needed while the answer is written
            for now in coming:
                if run.discarded:
                    yield UNCHANGED
                    return
                shown = turns_of(now, status, lang)
                if places is not None and now.text:
                    is_over = now.finish_reason is not None
                    at = len(shown) - 1 if is_over else len(shown)  # before the statistics
                    shown[at:at] = self.shown_places(places, now.text, is_over, lang)
                yield [*history, *shown], None
            if in_pairs and not run.stopped:
                yield [*history, *shown, page_turn(say("compact_used", lang))], None
        except UserError as error:
            if run.discarded:
                yield UNCHANGED
                return
            if error.status in ASKERS_FAULT:
                # Not in the chat: Gradio's Retry and Undo under it would be the last answer's.
                gr.Warning(toast(told(error, lang)), duration=REFUSAL_SHOWN_S)
                before, text, files = take_back(history)
                yield before, (text, files)
            else:
                kept = [turn for turn in shown if not _is_waiting(turn)]
                yield [*history, *kept, error_turn(error, lang)], None
        finally:
            self.runs.end(session, self.place, run)

    def shaped(self, params: SamplingParams, question: str) -> SamplingParams:
        """`params` as the task of this question is best answered, if it is one's."""
        task = task_of(question)
        if task is None:
            return params
        return task.shaped(params, self.engine.status().family, self.settings.max_new_tokens)

    def places_in(self, messages: Sequence[Message], params: SamplingParams) -> Places | None:
        """What shows the places that the answer will name; None on a tab that shows none."""
        return None

    def shown_places(self, places: Places, answer: str, is_over: bool, lang: str) -> list[Turn]:
        return places.turns(answer, is_over, lang)


def _as_written(turn: Turn) -> Turn:
    """A turn with the words that were written, where the page shows them as Markdown."""
    if is_page_turn(turn) or files_of(turn):
        return turn
    return {**turn, "content": [text_block(from_page(text_of(turn)))]}


def _is_waiting(turn: Turn) -> bool:
    return (turn.get("metadata") or {}).get("status") == "pending" and not text_of(turn)
