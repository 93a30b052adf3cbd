"""Jobs outlive the server that took them, and never seem to run when nobody runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image
from support.scripted_engine import ScriptedEngine
from support.until import until

from qwen_vl.errors import Busy, ModelUnavailable, ShuttingDown
from qwen_vl.jobs import JOBS_AT_ONCE, Job, Jobs
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

ASKED = [Message("user", (TextPart("Hi"),))]
PARAMS = SamplingParams()
TESTS = Path(__file__).parent


def jobs_of(engine: ScriptedEngine, file: Path | str = ":memory:", **options: float) -> Jobs:
    return Jobs(engine, file=str(file), **{"keep_s": 3600, "most": 100, **options})


def finished(jobs: Jobs, job_id: str) -> Job:
    until(lambda: jobs.get(job_id).status != "processing")
    return jobs.get(job_id)


def test_results_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    first = jobs_of(ScriptedEngine("All ", "of it"), file)
    before = finished(first, first.submit(ASKED, PARAMS).job_id)
    first.close()
    second = jobs_of(ScriptedEngine(), file)
    after = second.get(before.job_id)
    second.close()
    assert after == before
    assert (after.status, after.text) == ("done", "All of it")
    assert after.usage is not None


def test_jobs_of_a_killed_server_come_back_as_failed(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    code = (
        "import sys, threading, time; from test_jobs import *\n"
        "jobs = jobs_of(ScriptedEngine('Half', threading.Event()), sys.argv[1])\n"
        "ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(JOBS_AT_ONCE + 1)]\n"
        "while jobs.get(ids[0]).text != 'Half': time.sleep(0.01)\n"
        "print(*ids, flush=True); time.sleep(60)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    ids = server.stdout.readline().split()
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    assert len(ids) == JOBS_AT_ONCE + 1
    jobs = jobs_of(ScriptedEngine(), file)
    for job_id in ids:  # the one that was waiting, too
        job = jobs.get(job_id)
        assert (job.status, job.error_code) == ("failed", "shutting_down")
        assert "send it again" in job.error
        assert job.finished_s >= job.created_s
    jobs.close()


def test_closing_ends_what_waits_and_what_runs() -> None:
    jobs = jobs_of(ScriptedEngine("Half", threading.Event()))
    ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(JOBS_AT_ONCE + 2)]
    places = [0] * JOBS_AT_ONCE + [1, 2]
    until(lambda: [jobs.get(id).position for id in ids] == places)
    jobs.close()
    assert {jobs.get(id).status for id in ids} == {"failed"}
    with pytest.raises(ShuttingDown):
        jobs.submit(ASKED, PARAMS)


def test_a_full_engine_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_vl import jobs as module

    monkeypatch.setattr(module, "RETRY_S", 0.01)
    engine = ScriptedEngine("Now", refusal=Busy("Full."))
    jobs = jobs_of(engine)
    job_id = jobs.submit(ASKED, PARAMS).job_id
    until(lambda: len(engine.requests) >= 3)
    assert jobs.get(job_id).status == "processing"
    engine.refusal = None
    assert finished(jobs, job_id).text == "Now"
    jobs.close()


def test_an_answer_that_is_sent_back_unread_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qwen_vl import jobs as module

    monkeypatch.setattr(module, "RETRY_S", 0.01)
    engine = ScriptedEngine(Busy("The server behind this one is busy."))
    jobs = jobs_of(engine)
    job_id = jobs.submit(ASKED, PARAMS).job_id
    until(lambda: len(engine.requests) >= 3)
    assert jobs.get(job_id).status == "processing"
    engine.steps = ["Now"]
    assert finished(jobs, job_id).text == "Now"
    jobs.close()


def test_a_model_that_stays_away_fails_the_job_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_vl import jobs as module

    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    gone = ModelUnavailable("No server answers.")
    gone.retry_after_s = 5
    jobs = jobs_of(ScriptedEngine(refusal=gone))
    job = finished(jobs, jobs.submit(ASKED, PARAMS).job_id)
    assert (job.status, job.error_code) == ("failed", "model_unavailable")
    jobs.close()


def test_half_a_surrogate_pair_is_kept_as_a_question_mark() -> None:
    jobs = jobs_of(ScriptedEngine("a\ud800"))
    assert finished(jobs, jobs.submit(ASKED, PARAMS).job_id).text == "a?"
    jobs.close()


def test_before_the_end_no_more_is_taken() -> None:
    gate = threading.Event()
    jobs = jobs_of(ScriptedEngine("a", gate))
    job_id = jobs.submit(ASKED, PARAMS).job_id
    jobs.refuse_more()
    with pytest.raises(ShuttingDown):
        jobs.submit(ASKED, PARAMS)
    gate.set()
    assert finished(jobs, job_id).status == "done"
    jobs.close()


def test_a_job_that_waits_for_the_engine_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_vl import jobs as module

    monkeypatch.setattr(module, "RETRY_S", 0.01)
    jobs = jobs_of(ScriptedEngine(refusal=Busy("Full.")))
    job_id = jobs.submit(ASKED, PARAMS).job_id
    jobs.cancel(job_id)
    assert finished(jobs, job_id).status == "cancelled"
    jobs.close()


def test_waiting_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen_vl import jobs as module

    monkeypatch.setattr(module, "PICTURE_BYTES", 3 * 100 * 100 * 2)
    gate = threading.Event()
    jobs = jobs_of(ScriptedEngine("a", gate))
    shown = [Message("user", (ImagePart(Image.new("RGB", (100, 100))), TextPart("Hi")))]
    ids = [jobs.submit(shown, PARAMS).job_id for _ in range(2)]
    with pytest.raises(Busy, match="memory"):
        jobs.submit(shown, PARAMS)
    ids.append(jobs.submit(ASKED, PARAMS).job_id)  # text needs none
    gate.set()
    assert [finished(jobs, job_id).status for job_id in ids] == ["done"] * 3
    jobs.submit([*shown, *shown, *shown], PARAMS)  # alone, a large one is taken
    jobs.close()


def test_results_expire_and_are_bounded() -> None:
    jobs = jobs_of(ScriptedEngine("a"), most=3)
    ids = []
    for _ in range(5):
        ids.append(jobs.submit(ASKED, PARAMS).job_id)
        finished(jobs, ids[-1])
    assert [jobs.get(job_id) is not None for job_id in ids] == [False, False, True, True, True]
    jobs.close()
    jobs = jobs_of(ScriptedEngine("a"), keep_s=-1)
    job_id = jobs.submit(ASKED, PARAMS).job_id
    until(lambda: jobs.get(job_id) is None)
    jobs.close()


def test_a_bug_in_one_job_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine("a", RuntimeError("a bug"))
    jobs = jobs_of(engine)
    job = finished(jobs, jobs.submit(ASKED, PARAMS).job_id)
    assert (job.status, job.error_code) == ("failed", "internal_error")
    assert "a bug" not in job.error
    assert "a bug" in caplog.text
    engine.steps = ("b",)
    assert finished(jobs, jobs.submit(ASKED, PARAMS).job_id).status == "done"
    jobs.close()
