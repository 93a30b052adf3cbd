"""Engine replicas on a real Ray of two, one of them killed under load: `make test-beyond`."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import httpx
import pytest
from conftest import opened
from support.foreign_servers import TINY_MODEL, running
from support.gated import soon
from support.oracle import Oracle
from support.running_app import started
from support.tiny_models import qwen3_vl
from test_engine import GREEDY, assistant, picture, run, text_of, user
from test_engine_contract import SERVED

from qwen_vl.engine import Engine
from qwen_vl.errors import Busy, EngineFailed, NotFound, UserError
from qwen_vl.schema import Message

pytestmark = pytest.mark.beyond
PATIENCE_S = 120
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = opened(replace(SERVED, engine="ray", replicas=2))
    assert engine.status().state == "ready", engine.status()
    yield engine
    engine.close()


def replica_pids() -> set[int]:
    """Processes of this machine's replicas, which Ray names so."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if name.startswith(b"ray::ServeReplica:qwen_vl"):
            found.add(int(folder.name))
    return found


def test_the_interface_of_the_request_router_is_the_one_that_was_read() -> None:
    """It is alpha in Ray 2.60.0: with another version, read it again before the pin is moved."""
    ray, router = (
        importlib.import_module("ray"),
        importlib.import_module("ray.serve.request_router"),
    )
    config = importlib.import_module("ray.serve.config")
    pinned = (EXAMPLES / "requirements-ray.txt").read_text(encoding="utf-8").strip()
    assert (ray.__version__, pinned) == ("2.60.0", "ray[serve]==2.60.0")
    asked = inspect.signature(router.RequestRouter.choose_replicas)
    assert list(asked.parameters) == ["self", "candidate_replicas", "pending_request"]
    assert inspect.iscoroutinefunction(router.RequestRouter.choose_replicas)
    assert "kwargs" in {item.name for item in fields(router.PendingRequest)}
    assert isinstance(inspect.getattr_static(router.RunningReplica, "replica_id"), property)
    assert "request_router_class" in config.RequestRouterConfig.model_fields


def turns_of(seed: int) -> tuple[list[Message], list[Message]]:
    """Two turns of a conversation about a picture of its own."""
    first = [user(picture(seed, 160, 128), "Describe the image.")]
    return first, [*first, assistant("It is noise."), user("How many shapes are there?")]


def test_later_turns_find_their_replica(engine: Engine) -> None:
    for seed in range(100, 110):
        first, second = turns_of(seed)
        run(engine, first)
        usage = run(engine, second)[-1].usage
        assert usage is not None
        assert usage.cached_tokens > usage.prompt_tokens / 2


def test_conversations_are_spread_over_the_replicas() -> None:
    routing = importlib.import_module("qwen_vl.engine.ray.routing")  # Ray is not everywhere

    class Named:
        def __init__(self, name: str) -> None:
            self.replica_id = type("Id", (), {"unique_id": name})

    class Asked:
        def __init__(self, conversation: str) -> None:
            self.kwargs = {"conversation": conversation}

    def choices(names: str, conversation: str) -> list[str]:
        router = object.__new__(routing.ConversationRouter)
        ranks = router.choose_replicas([Named(name) for name in names], Asked(conversation))
        with pytest.raises(StopIteration) as ended:
            ranks.send(None)
        return [rank[0].replica_id.unique_id for rank in ended.value.value]

    conversations = [routing.conversation_of(turns_of(seed)[0]) for seed in range(60)]
    assert conversations == [routing.conversation_of(turns_of(seed)[1]) for seed in range(60)]
    before = {name: choices("abc", name)[0] for name in conversations}
    assert set(before.values()) == set("abc")
    for name, first in before.items():
        assert choices("cba", name)[0] == first
        if first != "c":  # only what the lost replica had goes elsewhere
            assert choices("ab", name)[0] == first


def test_one_replica_dies_under_load(engine: Engine) -> None:
    oracle = Oracle(TINY_MODEL)
    conversation = turns_of(7)[1]
    truth = oracle.text(conversation, 60)
    patient = replace(GREEDY, max_new_tokens=60)
    over, killed_s = threading.Event(), [0.0]
    ends: list[tuple[float, str | UserError]] = []  # (when it was asked, what came)

    def ask(seed: int) -> None:
        while not over.is_set():
            asked_s = time.monotonic()
            try:
                # A system prompt of its own spreads the conversations over both.
                begun = [Message("system", user(f"{seed}").parts), *conversation]
                told: str | UserError = text_of(run(engine, begun, patient))
            except Busy:
                continue
            except UserError as error:
                told = error
            ends.append((asked_s, told))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    before = replica_pids()
    assert len(before) == 2
    while len(ends) < 16:
        time.sleep(0.05)
    killed_s[0] = time.monotonic()
    os.kill(min(before), signal.SIGKILL)
    end_s = time.monotonic() + PATIENCE_S
    while len(replica_pids() - {min(before)}) < 2 or engine.status().state != "ready":
        assert time.monotonic() < end_s, (replica_pids(), engine.status())
        time.sleep(0.2)
    done = len(ends)
    while len(ends) < done + 16:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join(PATIENCE_S)

    failed = [(asked_s, told) for asked_s, told in ends if isinstance(told, UserError)]
    assert all(type(told) is EngineFailed for _, told in failed), failed
    assert all("ask again" in str(told) for _, told in failed), failed
    assert all(asked_s < killed_s[0] for asked_s, _ in failed), "a later request failed"
    assert len(failed) <= len(threads)
    assert len({told for _, told in ends if isinstance(told, str)}) <= len(threads)
    assert text_of(run(engine, conversation, patient)) == truth
    assert min(before) not in replica_pids()


def test_a_closed_answer_gives_its_row_back(engine: Engine) -> None:
    for _ in range(40):  # more than there are rows
        answer = engine.stream(turns_of(3)[0], replace(GREEDY, max_new_tokens=500))
        answer.close()
        assert list(answer)[-1].finish_reason == "cancelled"
    assert run(engine, turns_of(4)[0])[-1].finish_reason in ("stop", "length")


def test_more_replicas_are_started_under_load(engine: Engine) -> None:
    """After the module's own engine: there is one of the application at a time."""
    engine.close()
    engine = opened(replace(SERVED, engine="ray", replicas=1, most_replicas=2))
    assert len(replica_pids()) == 1
    over = threading.Event()

    def ask(seed: int) -> None:
        while not over.is_set():
            begun = [user(picture(seed, 160, 128), f"Describe the image. {seed}")]
            run(engine, begun, replace(GREEDY, max_new_tokens=60))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + PATIENCE_S
    while len(replica_pids()) < 2:
        assert time.monotonic() < end_s, "no second replica was started"
        time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    engine.close()


def test_two_models_have_replicas_of_their_own_and_requests_name_one(tmp_path: Path) -> None:
    """The first is a tiny one of random weights, the other the bundled one."""
    first = str(qwen3_vl(tmp_path))
    two = replace(SERVED, engine="ray", model=first, replicas=1, ray_model=("bundled",))
    engine = opened(two)
    try:
        end_s = time.monotonic() + PATIENCE_S
        while not all(one.answers for one in engine.status().others):
            assert time.monotonic() < end_s, engine.status()
            time.sleep(0.2)
        (bundled,) = (one.model_id for one in engine.status().others)
        assert len(replica_pids()) == 2
        told = text_of(run(engine, [user("Hello")], replace(GREEDY, model=bundled)))
        assert "small demo model" in told
        assert "small demo model" not in text_of(run(engine, [user("Hello")]))
        with pytest.raises(NotFound):
            engine.stream([user("Hello")], replace(GREEDY, model="gpt-4o"))
    finally:
        engine.close()


def test_an_update_ends_no_answer_and_the_old_server_leaves_the_new_replicas_alone(
    tmp_path: Path,
) -> None:
    """Two servers on a cluster that outlives both; the first is asked all the time meanwhile."""
    ray = str(Path(sys.executable).with_name("ray"))
    begin = (ray, "start", "--head", "--num-cpus=4", "--include-dashboard=false")
    subprocess.run(begin, check=True, capture_output=True)
    front = ("app.py", "--engine", "ray", "--ray-address", "auto", "--replicas", "1")
    asked = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    over, replies = threading.Event(), []

    def ask(client: httpx.Client) -> None:
        while not over.is_set():
            replies.append(client.post("/v1/chat/completions", json=asked))

    try:
        with started(*front[1:], cwd=EXAMPLES.parent) as (old, first):
            before, asking = replica_pids(), threading.Thread(target=ask, args=(first,))
            asking.start()
            with started(*front[1:], "--max-batch", "7", cwd=EXAMPLES.parent) as (_, second):
                assert soon(lambda: not replica_pids() & before)
                over.set()
                asking.join(PATIENCE_S)
                answered = [reply.json() for reply in replies if reply.status_code != 503]
                assert answered
                ends = {told["choices"][0]["message"]["content"] for told in answered}
                assert len(ends) == 1  # all of them whole, as greedy answers are alike
                old.send_signal(signal.SIGTERM)
                old.wait(PATIENCE_S)
                told = second.post("/v1/chat/completions", json=asked).json()
                assert "small demo model" in told["choices"][0]["message"]["content"]
    finally:
        over.set()
        subprocess.run((ray, "stop", "--force"), check=True, capture_output=True)


def test_the_command_serves_and_ends(tmp_path: Path) -> None:
    """As the README says: the page and the API in front, and nothing left after SIGTERM."""
    others = replica_pids()
    command = (str(EXAMPLES / "ray_serve.py"), "--replicas", "2", "--model", "bundled")
    with running(tmp_path, *command) as url:
        client = httpx.Client(base_url=url.removesuffix("/v1"), timeout=PATIENCE_S)
        while client.get("/health").json()["status"] != "ready":
            time.sleep(0.2)
        assert "2 replicas" in client.get("/health").json()["reason"]
        assert "gradio" in client.get("/").text
        body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
        told = client.post("/v1/chat/completions", json=body).json()
        assert "small demo model" in told["choices"][0]["message"]["content"]
    assert replica_pids() <= others
