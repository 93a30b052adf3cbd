"""`python tests/soak.py --minutes 10`: many clients at once on the bundled model, for a long time.

Clients (16, or --clients N) chat, stream, send jobs, clips and nonsense; they leave a third of the
streams midway.
At the end nothing may be stuck, lost or broken. Prints what happened; exits 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from support.clip_files import frame, write
from support.pictures import as_uri, encoded
from support.running_app import drain, started

CACHES_MB = 64
BUSY_S = 1.0  # how long a client that was refused waits; those of libraries wait as long
# What the server may answer when everything is right: full queues, and refusals of nonsense.
INTENDED = {200, 202, 400, 404, 409, 413, 415, 422, 429}


class Soak:
    """Counts what the clients see."""

    def __init__(self, client: httpx.Client, clip: bytes, job_share: float) -> None:
        self.client = client
        self.clip = as_uri(clip, "video/mp4")
        self.job_share = job_share  # of the jobs that a client would like to send
        self.statuses: Counter[str] = Counter()
        self.problems: list[str] = []
        self.jobs: list[str] = []
        self.turns = itertools.count()
        self.over = threading.Event()

    def run_client(self, seed: int) -> None:
        rng = random.Random(seed)
        actions = (self.chat, self.stream, self.stream, self.job, self.plain, self.nonsense)
        while not self.over.is_set():
            action = self.watch_clip if rng.random() < 0.05 else rng.choice(actions)
            try:
                action(rng)
            except httpx.HTTPError as error:
                self.problems.append(f"{action.__name__}: {type(error).__name__} {error}")

    def post(self, what: str, path: str, **send: Any) -> httpx.Response:
        response = self.client.post(path, **send)
        self.note(what, response.status_code)
        return response

    def note(self, what: str, status: int) -> None:
        self.statuses[f"{what} {status}"] += 1
        if status == 429:
            self.over.wait(BUSY_S)
        if status not in INTENDED:
            self.problems.append(f"{what}: status {status}")

    def question(self, rng: random.Random, **more: Any) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": rng.choice(QUESTIONS)}]
        for _ in range(rng.choice((0, 1, 1, 2))):
            picture = Image.new("RGB", (rng.randrange(64, 256), rng.randrange(64, 256)), "white")
            picture.paste(tuple(rng.randrange(256) for _ in range(3)), (10, 10, 50, 50))
            content.insert(0, {"type": "image_url", "image_url": {"url": as_uri(encoded(picture))}})
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 60, **more}

    def chat(self, rng: random.Random) -> None:
        self.post("chat", "/v1/chat/completions", json=self.question(rng))

    def stream(self, rng: random.Random) -> None:
        leaves = rng.random() < 1 / 3
        body = self.question(rng, stream=True)
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            self.note("stream left" if leaves else "stream", response.status_code)
            lines = response.iter_lines()
            if leaves:
                for _ in range(rng.randrange(6)):
                    next(lines, None)
                return
            last = [line for line in lines if line][-1]
        if response.status_code == 200 and last != "data: [DONE]":
            self.problems.append(f"a stream ended with {last[:200]}")

    def plain(self, rng: random.Random) -> None:
        # Sessions of a few turns: ever longer ones would need ever more memory, rightly.
        session_id = str(next(self.turns) // 5 + rng.randrange(2))
        body = {"text": rng.choice(QUESTIONS), "session_id": session_id}
        self.post("stream_chat", "/stream_chat", json={**body, "max_tokens": 30})

    def watch_clip(self, rng: random.Random) -> None:
        part = {"type": "video_url", "video_url": {"url": self.clip}, "every_s": 2}
        content = [part, {"type": "text", "text": "Summarise as a timeline."}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 60}
        self.post("clip", "/v1/chat/completions", json=body)

    def job(self, rng: random.Random) -> None:
        if rng.random() > self.job_share:
            return self.chat(rng)
        response = self.post("job", "/inference", json=self.question(rng))
        if response.status_code != 202:
            return
        task_id = response.json()["task_id"]
        self.jobs.append(task_id)
        if rng.random() < 0.2:
            self.client.delete(f"/result/{task_id}")

    def nonsense(self, rng: random.Random) -> None:
        send = rng.choice(
            (
                {"content": b"{"},
                {"json": {"messages": []}},
                {"json": {"messages": [{"role": "user", "content": "a"}] * 10_000}},
                {"json": self.question(rng, temperature=9)},
                {"json": {"messages": [{"role": "user", "content": "x" * 100_000}]}},
                {"content": b"x" * 1000, "headers": {"content-type": "image/png"}},
                {"files": {"image": ("a.png", b"no picture")}},
                {"json": {"messages": [{"role": "user", "content": "<|im_end|>" * 50}]}},
            )
        )
        self.post("nonsense", "/v1/chat/completions", **send)


QUESTIONS = (
    "Describe the image.",
    "How many shapes are there?",
    "提取图中的所有文字",
    "Which bar is the highest?",
    "Locate every shape.",
    "Hello",
)


def figure(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    minutes = args.minutes
    with tempfile.TemporaryDirectory() as folder:
        clip = write(Path(folder) / "clip.mp4", (frame(i) for i in range(60)), fps=10).read_bytes()
    flags = ("--prefix-cache-mb", str(CACHES_MB), "--vision-cache-mb", str(CACHES_MB))
    with started(*flags, "--max-jobs", "100000") as (process, client):
        drain(process)
        soak = Soak(client, clip, min(1.0, 16 / args.clients))  # or jobs would pile up
        threads = [threading.Thread(target=soak.run_client, args=(i,)) for i in range(args.clients)]
        for thread in threads:
            thread.start()
        memory_mb, end_s = [], time.monotonic() + minutes * 60
        while time.monotonic() < end_s:
            time.sleep(min(15.0, minutes * 6))
            memory_mb.append(figure(client, "process_resident_memory_bytes") / 2**20)
            print(f"{sum(soak.statuses.values())} requests, {memory_mb[-1]:.0f} MB", flush=True)
        soak.over.set()
        for thread in threads:
            thread.join()
        states = settle(soak)
        problems = [*soak.problems]
        for name in ("qwen_vl_batch_rows", "qwen_vl_requests_waiting"):
            if figure(client, name):
                problems.append(f"{name} is {figure(client, name)} when all is over")
        if client.get("/health").json()["status"] != "ready":
            problems.append(f"health: {client.get('/health').text}")
        tokens = figure(client, 'qwen_vl_tokens_total{kind="completion"}')
        half = memory_mb[len(memory_mb) // 2]
    print("\n".join(f"{what}: {count}" for what, count in sorted(soak.statuses.items())))
    print(f"jobs: {dict(states)}; tokens written: {tokens:.0f}")
    print(f"memory: {memory_mb[0]:.0f} MB at first, {half:.0f} in the middle, {memory_mb[-1]:.0f}")
    print(f"problems: {len(problems)}", *problems[:20], sep="\n")
    sys.exit(bool(problems))


def settle(soak: Soak) -> Counter[str]:
    """Waits for all jobs; their states."""
    states: Counter[str] = Counter()
    for task_id in soak.jobs:
        while True:
            response = soak.client.get(f"/result/{task_id}")
            state = response.json().get("status", f"lost ({response.status_code})")
            if state != "processing":
                break
            time.sleep(0.1)
        states[state] += 1
        if state not in ("done", "cancelled"):
            soak.problems.append(f"job {task_id}: {response.text[:300]}")
    return states


if __name__ == "__main__":
    main()
