"""Jobs end and are kept, whatever the disk or the answer does; one key's jobs leave others room."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.scripted_engine import ScriptedEngine
from test_api import serving

from qwen_vl import jobs as tasks
from qwen_vl.config import Settings
from qwen_vl.errors import Bug, Busy
from qwen_vl.jobs import JOBS_AT_ONCE, BadJobFile, Job, Jobs
from qwen_vl.jobs import store as job_store
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, ImagePart, Message, TextPart

ASKED = [Message("user", (TextPart("Hi"),))]
PARAMS = SamplingParams()
PATIENCE_S = 20
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "RETRY_S", 0.02)
    monkeypatch.setattr(job_store, "RETRY_MOST_S", 0.05)
    monkeypatch.setattr(job_store, "CLOSE_S", 0.2)
    monkeypatch.setattr(tasks, "CANCEL_S", 0.1)


@contextlib.contextmanager
def jobs_of(engine: object, file: Path | str = ":memory:", **options: float) -> Iterator[Jobs]:
    jobs = Jobs(engine, file=str(file), **{"keep_s": 3600, "most": 100, **options})
    try:
        yield jobs
    finally:
        jobs.close()


def until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, "it does not come to be"
        time.sleep(0.005)


def finished(jobs: Jobs, job_id: str, owner: str = "") -> Job:
    until(lambda: jobs.get(job_id, owner).status != "processing")
    return jobs.get(job_id, owner)


def rows(file: Path) -> dict[str, str]:
    """Status by id, as another program sees the file."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        return dict(db.execute("select id, status from jobs"))


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program holds the file, say to copy it."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("begin exclusive")
        yield
        db.execute("rollback")


# --- a file that cannot be written ---


def test_while_the_file_is_locked_jobs_go_on_and_are_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jobs.sqlite"
    with jobs_of(ScriptedEngine("All of it"), file) as jobs:
        with locked(file):
            ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(2 * JOBS_AT_ONCE)]
            assert [finished(jobs, id).text for id in ids] == ["All of it"] * len(ids)
        until(lambda: rows(file) == dict.fromkeys(ids, "done"))
        assert finished(jobs, jobs.submit(ASKED, PARAMS).job_id).status == "done"
    assert caplog.text.count("cannot be written") == 1  # told once, not with every try


def test_a_file_that_no_longer_takes_anything_costs_neither_worker_nor_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jobs.sqlite"
    with jobs_of(ScriptedEngine("a"), file) as jobs:
        with contextlib.closing(sqlite3.connect(file)) as db:
            full = "create trigger full{0} before {0} on jobs begin select raise(fail, 'disk'); end"
            for change in ("insert", "update", "delete"):
                db.execute(full.format(change))
        ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(3 * JOBS_AT_ONCE)]
        assert [finished(jobs, id).text for id in ids] == ["a"] * len(ids)
    assert f"{len(ids)} jobs could not be written" in caplog.text
    assert "Traceback" not in caplog.text


def test_what_is_forgotten_before_it_was_written_leaves_no_row(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    with jobs_of(ScriptedEngine("a"), file, most=3) as jobs:
        first = jobs.submit(ASKED, PARAMS).job_id
        finished(jobs, first)
        with locked(file):
            ids = []
            for _ in range(6):
                ids.append(jobs.submit(ASKED, PARAMS).job_id)
                finished(jobs, ids[-1])
        until(lambda: set(rows(file)) == set(ids[-3:]))
        assert jobs.get(first) is None


def test_a_job_that_is_taken_is_in_the_file(tmp_path: Path) -> None:
    file, gate = tmp_path / "jobs.sqlite", threading.Event()
    with jobs_of(ScriptedEngine("a", gate), file) as jobs:
        job = jobs.submit(ASKED, PARAMS)
        assert rows(file) == {job.job_id: "processing"}
        gate.set()
        finished(jobs, job.job_id)
    assert rows(file) == {job.job_id: "done"}  # all is written before it closes


def test_calls_are_answered_while_the_file_is_locked(tmp_path: Path) -> None:
    file, gate = tmp_path / "jobs.sqlite", threading.Event()
    settings = Settings(job_file=str(file))
    with serving(ScriptedEngine("Half", gate), settings) as client:
        first = client.post("/inference", json={"text": "a"}).json()["task_id"]
        with locked(file):
            started_s = time.monotonic()
            assert client.get(f"/result/{first}").json()["status"] == "processing"
            second = client.post("/inference", json={"text": "b"})
            assert second.status_code == 202
            cancelled = client.delete(f"/result/{second.json()['task_id']}").json()
            assert cancelled["status"] == "cancelled"
            assert client.get("/health").status_code == 200
            assert time.monotonic() - started_s < job_store.BUSY_S * 4
        gate.set()


# --- answers that do not end as they should ---


class Endless:
    """An answer that says something and then nothing more, whatever is asked of it."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate, self._said = gate, False

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> Chunk:
        if self._said:
            self._gate.wait()
            raise StopIteration
        self._said = True
        return Chunk("Half")

    def close(self) -> None:
        raise RuntimeError("it cannot be closed")


class Strange(ScriptedEngine):
    """An engine whose answers are made by `answer`."""

    def __init__(self, answer: Callable[[], object]) -> None:
        super().__init__()
        self._answer = answer

    def stream(self, messages: object, params: object, scope: str = "") -> object:  # type: ignore[override]
        return self._answer()


def test_an_answer_without_a_last_chunk_is_a_failed_job() -> None:
    with jobs_of(ScriptedEngine("Half", finish_reason=None)) as jobs:
        job = finished(jobs, jobs.submit(ASKED, PARAMS).job_id)
        assert (job.status, job.text, job.error_code) == ("failed", "Half", "engine_failed")
        assert "broke off" in job.error


@pytest.mark.parametrize("error", [RuntimeError("bug"), MemoryError(), ZeroDivisionError()])
def test_an_answer_that_breaks_is_a_failed_job(error: Exception) -> None:
    def answer() -> object:
        raise error

    with jobs_of(Strange(answer)) as jobs:
        ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(JOBS_AT_ONCE + 1)]
        assert {finished(jobs, id).error_code for id in ids} == {Bug.code}


def test_a_job_whose_answer_hangs_can_be_cancelled_and_everything_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "CLOSE_S", 0.2)
    gate = threading.Event()
    with jobs_of(Strange(lambda: Endless(gate)), most=2) as jobs:
        ids = [jobs.submit(ASKED, PARAMS).job_id for _ in range(2)]
        until(lambda: all(jobs.get(id).text for id in ids))
        job = jobs.cancel(ids[0])
        assert (job.status, job.text) == ("cancelled", "Half")
        assert jobs.submit(ASKED, PARAMS).status == "processing"  # its place is free
        jobs.close()
        assert jobs.get(ids[1]).status == "failed"
    gate.set()


class Undecoded:
    """A picture of 3 MB in a file of 1 kB."""

    size, key, held_bytes = (1000, 1000), "key", 1000

    def __init__(self) -> None:
        self.abandoned = False

    def decode(self) -> Image.Image:
        raise AssertionError("nobody asked for it")

    def abandon(self) -> None:
        self.abandoned = True


def test_waiting_pictures_count_as_files_and_are_abandoned_with_their_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PICTURE_BYTES", 10_000)
    gate = threading.Event()
    with jobs_of(ScriptedEngine(gate)) as jobs:
        pictures = [Undecoded() for _ in range(JOBS_AT_ONCE + 2)]
        ids = [
            jobs.submit([Message("user", (ImagePart(picture),))], PARAMS).job_id
            for picture in pictures
        ]
        assert jobs.cancel(ids[-1]).status == "cancelled"
        assert [picture.abandoned for picture in pictures[-2:]] == [False, True]
        gate.set()


# --- restarts ---


def test_a_restart_after_a_kill_fails_what_was_under_way(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    code = (
        "import sys, threading; from test_job_store import *\n"
        "with jobs_of(ScriptedEngine('a', threading.Event()), sys.argv[1]) as jobs:\n"
        "    print(*[jobs.submit(ASKED, PARAMS).job_id for _ in range(6)], flush=True)\n"
        "    threading.Event().wait(60)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    ids = server.stdout.readline().split()
    server.send_signal(signal.SIGKILL)
    server.communicate()
    assert set(rows(file)) == set(ids)
    with jobs_of(ScriptedEngine("a"), file) as jobs:
        assert {jobs.get(id).error_code for id in ids} == {"shutting_down"}
        until(lambda: set(rows(file).values()) == {"failed"})


def test_more_results_than_are_kept_shrink_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    with jobs_of(ScriptedEngine("a"), file) as jobs:
        ids = []
        for _ in range(5):
            ids.append(jobs.submit(ASKED, PARAMS).job_id)
            finished(jobs, ids[-1])
    with jobs_of(ScriptedEngine("a"), file, most=2) as jobs:
        assert [jobs.get(id) is not None for id in ids] == [False] * 3 + [True] * 2


# --- files that are not fit ---


def sound(file: Path, count: int = 40) -> None:
    with jobs_of(ScriptedEngine("long " * 200), file, most=1000) as jobs:
        for _ in range(count):
            last = jobs.submit(ASKED, PARAMS).job_id
        finished(jobs, last)


def damaged(file: Path) -> None:
    sound(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = os.urandom(500)
    file.write_bytes(data)


def strange_row(column: str, value: object) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        sound(file, 1)
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute(f"update jobs set {column} = ?", (value,))
            db.commit()

    return make


def of_something_else(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("create table jobs (id text, salary int)")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no SQLite": (lambda file: file.write_bytes(os.urandom(5000)), "not a SQLite file"),
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (os.mkfifo, "not a file"),
    "damaged in the middle": (damaged, "damaged"),
    "cut short": (lambda file: (sound(file), os.truncate(file, 10_000)), "damaged"),
    "another table": (of_something_else, "something else"),
    "an unknown status": (strange_row("status", "lost"), "damaged"),
    "a time that is a text": (strange_row("finished_s", "noon"), "damaged"),
    "figures of something else": (strange_row("usage", "[1]"), "damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    make, words = BAD_FILES[name]
    make(file)
    with pytest.raises(BadJobFile, match=words) as refusal:
        Jobs(ScriptedEngine(), file=str(file), keep_s=1, most=1)
    assert "\n" not in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_a_name_that_cannot_be_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (("", "needs the name"), (str(tmp_path / "no" / "x"), "no folder")):
        with pytest.raises(BadJobFile, match=words):
            Jobs(ScriptedEngine(), file=name, keep_s=1, most=1)
    from qwen_vl.jobs import file as job_file

    monkeypatch.setattr(job_file, "OPEN_S", 0.01)
    file = tmp_path / "jobs.sqlite"
    sound(file, 1)
    with locked(file), pytest.raises(BadJobFile, match="locked by another program"):
        Jobs(ScriptedEngine(), file=str(file), keep_s=1, most=1)


def test_the_app_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    path = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "bundled", "--port", "0", "--job-file", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if "--job-file" in line]
    assert done.returncode == 2
    assert len(told) == 1
    assert "Traceback" not in done.stderr


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    before = os.umask(0)
    try:
        sound(file, 1)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o666)
        journal = tmp_path / "jobs.sqlite-journal"
        journal.write_bytes(b"")
        journal.chmod(0o644)
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("pragma journal_mode = wal")  # somebody has switched it on
        with jobs_of(ScriptedEngine("a"), file) as jobs:
            finished(jobs, jobs.submit(ASKED, PARAMS).job_id)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes


# --- one key and another ---


def test_one_owner_leaves_places_to_others() -> None:
    gate = threading.Event()
    with jobs_of(ScriptedEngine(gate), most=8) as jobs:
        for _ in range(4):
            jobs.submit(ASKED, PARAMS, "ann")
        with pytest.raises(Busy):
            jobs.submit(ASKED, PARAMS, "ann")
        jobs.submit(ASKED, PARAMS, "bob")
        jobs.submit(ASKED, PARAMS, "bob")
        with pytest.raises(Busy):
            jobs.submit(ASKED, PARAMS, "bob")
        jobs.submit(ASKED, PARAMS, "eve")
        gate.set()


def test_where_nobody_has_a_key_all_places_are_there_for_all() -> None:
    gate = threading.Event()
    with jobs_of(ScriptedEngine(gate), most=8) as jobs:
        for _ in range(8):
            jobs.submit(ASKED, PARAMS)
        with pytest.raises(Busy):
            jobs.submit(ASKED, PARAMS)
        gate.set()


def test_one_owners_jobs_never_cost_another_his_results() -> None:
    with jobs_of(ScriptedEngine("a"), most=6) as jobs:
        mine = jobs.submit(ASKED, PARAMS, "ann").job_id
        finished(jobs, mine, "ann")
        theirs = []
        for _ in range(20):
            theirs.append(jobs.submit(ASKED, PARAMS, "bob").job_id)
            finished(jobs, theirs[-1], "bob")
        assert jobs.get(mine, "ann").text == "a"
        kept = [id for id in theirs if jobs.get(id, "bob") is not None]
        assert kept == theirs[-5:]


def test_one_owners_pictures_leave_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * 100 * 100
    monkeypatch.setattr(tasks, "PICTURE_BYTES", 4 * size)
    shown = [Message("user", (ImagePart(Image.new("RGB", (100, 100))), TextPart("Hi")))]
    gate = threading.Event()
    with jobs_of(ScriptedEngine(gate)) as jobs:
        jobs.submit(shown, PARAMS, "ann")
        jobs.submit(shown, PARAMS, "ann")
        with pytest.raises(Busy, match="memory"):
            jobs.submit(shown, PARAMS, "ann")
        jobs.submit(shown, PARAMS, "bob")
        gate.set()
