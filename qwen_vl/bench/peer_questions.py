"""What both servers are asked in the benchmark against a peer, and how long each answer took.

Every request is streamed over HTTP. One row is asked after the other, and pictures are new to every
row that wants one, so no cache knows them. Knows nothing of which server it asks.
"""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from qwen_vl.bench.peer_servers import PeerFailed, Running
from qwen_vl.bench.speed import QUESTION, SECOND_QUESTION, noise, say

WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word"
).split()
REPLY = (  # the same words on both sides, so that both read the same later turns
    "The picture shows soft patches of many colours that run into each other, without edges, "
    "letters or people, and with more light at the top than at the bottom."
)
LONG_TEXT_WORDS = 600
SIDE_PX = 512
PHOTOGRAPH_PX = (1280, 1024)  # 1,280 visual tokens
FULL_HD_PX = (1920, 1080)  # 2,040
TURNS = 10
QUICK_USERS, USERS = (1, 4), (1, 2, 4, 8)
FIRST_TOKEN = "time to first token"
Turn = dict[str, Any]  # a message of the OpenAI API


@dataclass(frozen=True)
class Answer:
    """Seconds are counted from the request; `first_s` is when the first text came."""

    first_s: float
    total_s: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Measured:
    """A row's figure, and how many prompt tokens the server counted for it, if any."""

    value: float
    unit: str
    prompt_tokens: int = 0


def ask(client: httpx.Client, turns: Sequence[Turn], new_tokens: int, seed: int = 0) -> Answer:
    """One streamed answer, sampled as Qwen advises, so that no loop makes it easy to guess.

    Raises PeerFailed when the server refuses or breaks off.
    """
    body = {
        "model": "",
        "messages": list(turns),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": new_tokens,
        "ignore_eos": True,  # llama.cpp's word; elsewhere random weights hardly ever end an answer
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "presence_penalty": 0.0,
        "seed": seed,
        "max_image_tokens": 2048,  # this project's word: it makes pictures smaller by default
    }
    first_s, ended, usage = None, False, None
    start_s = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            told = response.read().decode(errors="replace")
            raise PeerFailed(f"{client.base_url} answered {response.status_code}: {told[:500]}")
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise PeerFailed(f"{client.base_url} broke off: {chunk['error']}")
            for choice in chunk.get("choices", ()):
                ended = ended or choice.get("finish_reason") is not None
                # A single token may be half a character, which is not sent: then the end counts.
                if first_s is None and (choice["delta"].get("content") or ended):
                    first_s = time.perf_counter() - start_s
            usage = chunk.get("usage") or usage
    if first_s is None or not ended or usage is None:
        raise PeerFailed(f"{client.base_url} ended an answer without a reason or without usage.")
    total_s = time.perf_counter() - start_s
    return Answer(first_s, total_s, usage["prompt_tokens"], usage["completion_tokens"])


def sitting(server: Running, *, quick: bool, new_tokens: int) -> dict[str, Measured]:
    """All rows of one server that was just started: name -> figure."""
    client, rows = server.client, dict[str, Measured]()

    def first_token(name: str, turns: Sequence[Turn]) -> None:
        say(f"{server.name}: {name}")
        answer = ask(client, turns, 1)
        rows[f"{FIRST_TOKEN}, {name}"] = Measured(answer.first_s, "s", answer.prompt_tokens)

    say(f"{server.name}: warming up")
    ask(client, [user(QUESTION, picture(seed=0))], 2)
    seen = picture(seed=1)
    first_token("picture + question", [user(QUESTION, seen)])
    second = [user(QUESTION, seen), assistant(REPLY), user(SECOND_QUESTION)]
    first_token("second turn", second)
    first_token("another question about the picture", [user(SECOND_QUESTION, seen)])
    first_token("long text", [user(long_text(seed=2))])
    say(f"{server.name}: one answer of {new_tokens} tokens")
    answer = ask(client, [user(QUESTION, seen)], new_tokens)
    rows["decode, one answer"] = _speed(
        answer.completion_tokens - 1, answer.total_s - answer.first_s, answer
    )
    for users in QUICK_USERS if quick else USERS:
        say(f"{server.name}: {users} at once about one picture")
        rows[f"{users} at once about one picture"] = together(client, users, new_tokens)
    if not quick:
        for name, size in (("photograph", PHOTOGRAPH_PX), ("1080p", FULL_HD_PX)):
            large = picture(*size, seed=3)
            first_token(f"{name} of {size[0]}x{size[1]}", [user(QUESTION, large)])
        say(f"{server.name}: {TURNS} turns about two pictures")
        rows[f"{FIRST_TOKEN}, sum of {TURNS} turns about two pictures"] = conversation(client)
    return rows


def together(client: httpx.Client, users: int, new_tokens: int) -> Measured:
    """Tokens per second in all, from the first request until the last answer's end."""
    shared = picture(seed=100 + users)
    asked = [[user(f"{QUESTION} ({i})", shared)] for i in range(users)]
    start_s = time.perf_counter()
    with ThreadPoolExecutor(users) as pool:
        answers = list(pool.map(lambda i: ask(client, asked[i], new_tokens, i), range(users)))
    seconds = time.perf_counter() - start_s
    return _speed(sum(answer.completion_tokens for answer in answers), seconds, answers[0])


def conversation(client: httpx.Client) -> Measured:
    """Ten turns, with a second picture half-way: the waits for their first tokens, in all."""
    turns: list[Turn] = []
    waited_s, answer = 0.0, None
    for number in range(TURNS):
        new = picture(seed=200 + number) if number in (0, TURNS // 2) else None
        turns.append(user(f"Question {number + 1}. {SECOND_QUESTION}", new))
        answer = ask(client, turns, 1)
        waited_s += answer.first_s
        turns.append(assistant(REPLY))
    assert answer is not None
    return Measured(waited_s, "s", answer.prompt_tokens)


def _speed(tokens: int, seconds: float, answer: Answer) -> Measured:
    if tokens < 1 or seconds <= 0:
        raise PeerFailed("An answer ended at its first token: name another model.")
    return Measured(tokens / seconds, "tokens/s", answer.prompt_tokens)


def user(text: str, data_uri: str | None = None) -> Turn:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if data_uri:
        parts.insert(0, {"type": "image_url", "image_url": {"url": data_uri}})
    return {"role": "user", "content": parts}


def assistant(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def picture(width_px: int = SIDE_PX, height_px: int = SIDE_PX, *, seed: int) -> str:
    """Smooth random colours as a JPEG in a data: URI."""
    file = io.BytesIO()
    noise(SIDE_PX, seed).resize((width_px, height_px)).save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def long_text(seed: int) -> str:
    """About 600 tokens: short common words, one token each, in random order."""
    return " ".join(random.Random(seed).choices(WORDS, k=LONG_TEXT_WORDS))
