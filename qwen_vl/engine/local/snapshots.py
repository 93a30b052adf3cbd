"""Where the states of recurrent layers are worth keeping: where later prompts part from this one.

Another question parts after the last picture, or after the system prompt; an edit of the last
question parts at its start; a next turn and a regenerated answer part after the last turn, before
what the template puts in front of an answer. Knows nothing of stores or caches.
"""

from __future__ import annotations

from collections.abc import Collection

from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.prompt import Prompt

MOST_SNAPSHOTS = 8  # of one sequence: each takes as much memory as the columns of 800 tokens or so
SPARED_TOKENS = 24  # running fewer tokens again costs about as much as a pass that ends there
SYSTEM_TOKENS = 8  # a shorter system prompt is not worth keeping


def snapshots_at(loaded: LoadedModel, prompt: Prompt, done: int = 0) -> list[int]:
    """After how many tokens, in rising order, where `done` are known; none if layers can be cut."""
    if not loaded.is_recurrent:
        return []
    ids, start_id = prompt.token_ids, loaded.prompts.turn_start_id
    turns = [i for i, token in enumerate(ids) if token == start_id]
    pictures = _ends_of_pictures(ids, loaded.image_token_id)
    system = [at for at in turns[1:-1][:1] if at - done >= SYSTEM_TOKENS]
    between = _apart({*turns[-2:-1], *pictures}, max([done, *system]))
    last = [at for at in (*pictures[-1:], *turns[-1:]) if at > done]
    return thinned({*system, *between, *last}, MOST_SNAPSHOTS, spared=last)


def thinned(ends: Collection[int], most: int, spared: Collection[int] = ()) -> list[int]:
    """At most `most` of these, in rising order.

    What goes first are those that save the fewest tokens, counted from the one before; `spared`
    stay.
    """
    left = sorted(ends)
    while len(left) > most:
        saved = {
            at: at - before
            for before, at in zip([0, *left], left, strict=False)
            if at not in spared
        }
        left.remove(min(saved, key=lambda at: saved[at]))
    return left


def _apart(ends: Collection[int], done: int) -> list[int]:
    """Without those that save next to nothing."""
    kept: list[int] = []
    for at in sorted(ends):
        if at - (kept[-1] if kept else done) >= SPARED_TOKENS:
            kept.append(at)
    return kept


def _ends_of_pictures(ids: list[int], image_token_id: int | None) -> list[int]:
    after = [*ids[1:], None]
    return [
        i + 1
        for i, (token, following) in enumerate(zip(ids, after, strict=True))
        if token == image_token_id and following != image_token_id
    ]
