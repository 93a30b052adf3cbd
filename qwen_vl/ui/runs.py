"""Which answer runs in which browser tab, and how it is asked for.

Knows the Engine protocol; knows nothing of pages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context

from qwen_vl.engine import Answer, Engine
from qwen_vl.errors import Bug, UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, Message, Standing, Undecoded

log = logging.getLogger(__name__)

QUIET_WITHIN_S = 3.0  # how long a dropped run may take until it shows nothing more
MOST_RUNS = 4096  # announced ones included, whose answer a forged browser never asks for


class Run:
    """One answer in one browser tab. `stop` may be called from any thread, more than once."""

    def __init__(self, question: object = None, turns: int | None = None) -> None:
        self.question = question  # what was announced; None where nobody will ask
        self.turns = turns  # of the history that it answers
        self.running = False
        self._stopped = threading.Event()
        self._done = threading.Event()
        self.discarded = False  # the page has moved on: show nothing more
        self._asking: Asking | None = None
        self._pictures: Sequence[Undecoded] = ()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self, *, discard: bool = False) -> None:
        self.discarded = self.discarded or discard
        self._stopped.set()
        for picture in self._pictures:
            picture.abandon()
        if self._asking is not None:
            self._asking.close()

    def uses(self, pictures: Sequence[Undecoded]) -> None:
        """The pictures whose decoding ends with the run."""
        self._pictures = pictures

    def attach(self, asking: Asking) -> None:
        self._asking = asking
        if self.stopped:
            self.stop()

    def finish(self) -> None:
        self.stop()
        self._pictures = ()
        self.running = False
        self._done.set()

    def wait_done(self, timeout_s: float) -> None:
        if self.running:
            self._done.wait(timeout_s)


class Runs:
    """The runs of all tabs, each under its own key; nobody can reach another tab's run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, str], Run] = {}

    def begin(
        self, session: str, place: str, question: object = None, turns: int | None = None
    ) -> Run:
        """A new run for this tab. It can be stopped from now on, even while it is still queued."""
        self.drop(session, place)
        run = Run(question, turns)
        with self._lock:
            self._runs[session, place] = run
            # The oldest that was only announced; there are never that many answers running.
            waiting = (key for key, one in self._runs.items() if not one.running)
            if len(self._runs) > MOST_RUNS and (oldest := next(waiting, None)):
                del self._runs[oldest]
        return run

    def take(self, session: str, place: str, turns: int | None = None) -> Run | None:
        """The run that was begun and is not answered yet, or None; marks it as running.

        None, too, where it was begun for a history of another length: the steps after a refused
        question must not take the next question's run.
        """
        with self._lock:
            run = self._runs.get((session, place))
            if run is None or run.running or (run.turns or turns) != (turns or run.turns):
                return None
            run.running = True
            return run

    def is_running(self, session: str, place: str) -> bool:
        with self._lock:
            run = self._runs.get((session, place))
            return run is not None and run.running

    def is_wanted(self, session: str, place: str) -> bool:
        """Whether an answer is running or announced."""
        return self.wanted(session, place) is not None

    def wanted(self, session: str, place: str) -> Run | None:
        """The run that is running or announced and not stopped before it began."""
        with self._lock:
            run = self._runs.get((session, place))
        return run if run is not None and (run.running or not run.stopped) else None

    def stop(self, session: str, place: str) -> None:
        with self._lock:
            run = self._runs.get((session, place))
        if run is not None:
            run.stop()

    def drop(self, session: str, place: str) -> None:
        """Stops a run, hides the rest of its answer, and waits until it has ended."""
        with self._lock:
            run = self._runs.pop((session, place), None)
        if run is not None:
            run.stop(discard=True)
            run.wait_done(QUIET_WITHIN_S)

    def end(self, session: str, place: str, run: Run) -> None:
        run.finish()
        with self._lock:
            if self._runs.get((session, place)) is run:
                del self._runs[session, place]

    def forget(self, session: str) -> None:
        """The tab was closed: everything it started is cancelled."""
        with self._lock:
            keys = [key for key in self._runs if key[0] == session]
            runs = [self._runs.pop(key) for key in keys]
        for run in runs:
            run.stop(discard=True)


class Asking:
    """Asks the engine in a thread: it decodes pictures before there is an answer.

    Then the caller reads the answer here.
    """

    def __init__(
        self, engine: Engine, messages: Sequence[Message], params: SamplingParams, scope: str
    ) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._closed = False
        self._answer: Answer | None = None
        self._error: UserError | None = None
        self._messages, self._scope = messages, scope
        run = copy_context().run  # ZeroGPU asks who the visitor is
        ask = (self._ask, params)
        threading.Thread(target=run, args=ask, name="page-asks", daemon=True).start()

    def _ask(self, params: SamplingParams) -> None:
        error: UserError = Bug()
        answer = None
        try:
            answer = self._engine.stream(self._messages, params, self._scope)
        except UserError as refused:
            error = refused
        except Exception:  # lost in this thread otherwise: logged, and told to the page
            log.exception("The engine broke while the page asked")
        self._messages = ()  # the pictures: nothing needs them while the answer is written
        with self._changed:
            self._answer, self._error = answer, None if answer else error
            closed = self._closed
            self._changed.notify_all()
        if closed and answer is not None:  # while the engine was still reading the prompt
            answer.close()

    @property
    def standing(self) -> Standing | None:
        """How far the request is; None where that is not told."""
        answer = self._answer
        return answer.standing if answer else None

    def get(self, timeout_s: float) -> Chunk | None:
        """The answer's next chunk; None if none came in time.

        Raises what the answer raises, and again when it is asked again.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._answer or self._error, timeout_s)
        if self._error is not None:
            raise self._error
        if self._answer is None:
            return None
        try:
            return self._answer.get(max(0.0, end_s - time.monotonic()))
        except UserError as error:
            self._error = error
            raise

    def close(self) -> None:
        """Cancels the request; its last chunk still comes."""
        with self._changed:
            self._closed, answer = True, self._answer
        if answer is not None:
            answer.close()
