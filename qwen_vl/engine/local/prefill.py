"""A prompt -> its cache and the logits of the first new token.

Runs only the tokens that the prefix store does not hold, and encodes only new pictures. Works in
parts, so that a long prompt does not hold the others up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from qwen_vl.engine.local.batch import Row
from qwen_vl.engine.local.cache import new_cache, snapshot_of
from qwen_vl.engine.local.midway import copying
from qwen_vl.engine.local.reading import Reading
from qwen_vl.engine.local.states import Snapshot, States
from qwen_vl.engine.local.vision import Features
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.prompt import Prompt

# A CPU takes a second or two over this many tokens of a 2B model, a GPU a fraction of that.
CHUNK_TOKENS_CPU = 256
CHUNK_TOKENS_GPU = 2048
REST_SHARE = 8  # less than this share of a chunk is read with the one before
CHUNK_PAIRS_CPU = 2**20  # of a chunk's tokens and those they look at: else the last chunks are slow


@dataclass(frozen=True)
class Prefilled:
    """Prompts whose tokens are all in the cache, and the logits of each one's first new token."""

    logits: torch.Tensor  # [rows, vocabulary], of the first new tokens
    rows: list[Row]
    cache: Any
    cached_tokens: list[int]  # of each row, found in the prefix store
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # of a single row, by its tokens


def prefill(
    loaded: LoadedModel,
    prompt: Prompt,
    start: States,
    features_of: Callable[[int], Features],
    snapshots_at: Sequence[int] = (),
    reading: Reading | None = None,
) -> Generator[None, None, Prefilled]:
    """Runs what `start`, the states of the prompt's first tokens, does not hold yet.

    `features_of` gives what the vision encoder makes of the prompt's picture of that number.
    Recurrent states are copied after the first tokens of which `snapshots_at` tells the number, in
    rising order; those that `start` covers are left out.

    Yields after each picture and each chunk of tokens, so that others can go on and a request that
    nobody waits for any more can be dropped; returns the whole.
    """
    done = start.tokens
    reading = reading or Reading()
    features = []
    numbers = _pictures_from(done, prompt, loaded.image_token_id)
    reading.begin([prompt.pictures[i].tokens for i in numbers], len(prompt.token_ids) - done)
    for number in numbers:
        features.append(features_of(number))
        reading.encoded()
        yield
    # [visual tokens, hidden] of the merger and of each deepstack level, for all that is not done
    levels = [torch.cat(level) for level in zip(*features, strict=True)]
    positions = loaded.positions(prompt)
    cache = new_cache(loaded.layer_kinds, start.columns, start.snapshot)
    snapshots: dict[int, Snapshot] = {}
    while True:
        stop = len(prompt.token_ids)
        if not loaded.copies_midway:
            stop = next((at for at in snapshots_at if at > done), stop)
        size = chunk_tokens(loaded, done)
        if stop - done <= size + size // REST_SHARE:
            size = stop - done
        chunk = prompt.token_ids[done : done + size]
        began_s = time.monotonic()
        visual = sum(token == loaded.image_token_id for token in chunk)
        midway = [at for at in snapshots_at if done < at < done + len(chunk)]
        with copying(cache, [at - done for at in midway]) as copies:
            output = loaded.forward(
                len(chunk),
                input_ids=torch.tensor([chunk]).to(loaded.device),
                position_ids=positions[..., done : done + len(chunk)].to(loaded.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **_encoded([level[:visual] for level in levels] if visual else []),
            )
        snapshots.update(zip(midway, copies, strict=True))
        levels = [level[visual:] for level in levels]
        done += len(chunk)
        wait_for(loaded)
        reading.prefilled(len(chunk), began_s)
        if done in snapshots_at:
            snapshots[done] = snapshot_of(cache, 0)
        if done == len(prompt.token_ids):
            break
        yield
    row = row_of(loaded, positions)
    return Prefilled(output.logits[:, -1], [row], cache, [start.tokens], snapshots)


def wait_for(loaded: LoadedModel) -> None:
    """Until a GPU has done what it was given; before a clock is read."""
    if loaded.device.type == "cuda":
        torch.cuda.synchronize(loaded.device)


def chunk_tokens(loaded: LoadedModel, done: int = 0) -> int:
    """How many tokens the next part of a prefill runs, when `done` are in the cache."""
    if loaded.device.type != "cpu":
        return CHUNK_TOKENS_GPU
    return max(1, min(CHUNK_TOKENS_CPU, CHUNK_PAIRS_CPU // (done + 1)))


def next_part(parts: Generator[None, None, Prefilled]) -> Prefilled | None:
    """Runs one more part of a prefill. Returns the result after the last part."""
    try:
        next(parts)
    except StopIteration as finished:
        return finished.value
    return None


def row_of(loaded: LoadedModel, positions: torch.Tensor) -> Row:
    """The row that goes on after these positions."""
    # Rows 1 to 3 only: MRoPE lags behind the plain index, a picture advances it by its longer side.
    mrope = positions[1:] if loaded.accepts_images else positions
    return Row(length=positions.shape[-1], next_position=int(mrope.max()) + 1)


def _pictures_from(done: int, prompt: Prompt, image_token_id: int | None) -> range:
    """Numbers of the pictures whose tokens come after `done`; none is ever done in part."""
    visual = sum(token == image_token_id for token in prompt.token_ids[done:])
    first = len(prompt.pictures)
    while visual > 0:
        first -= 1
        visual -= prompt.pictures[first].tokens
    return range(first, len(prompt.pictures))


def _encoded(levels: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Vision features in the form that the model's forward takes instead of pixels."""
    if not levels:
        return {}
    merged, *deepstack = ([level] for level in levels)
    output = SimpleNamespace(pooler_output=merged, deepstack_features=deepstack)
    return {"mm_encoder_outputs": {"image": output}}
