"""Several prompts of which little is left to read -> one pass for all of them.

Such are short questions, and later ones about a picture that was seen before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from qwen_vl.engine.local.cache import columns_in_use, new_cache, stack
from qwen_vl.engine.local.prefill import Prefilled, row_of
from qwen_vl.engine.local.states import Columns, States
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.prompt import Prompt

SHORT_TOKENS = 64  # what is left of a prompt whose system prompt or picture was seen before


def fit_together(loaded: LoadedModel, keys: Sequence[np.ndarray], found: Sequence[int]) -> bool:
    """Whether `prefill_together` takes these prompts; `found` counts each one's stored tokens.

    Not where layers are recurrent: padding would become part of a row's state.
    """
    if loaded.is_recurrent:
        return False
    tail = max(len(one) - stored for one, stored in zip(keys, found, strict=True))
    return tail <= SHORT_TOKENS and all(
        len(one) >= tail and not (one[-tail:] < 0).any() for one in keys
    )


def prefill_together(
    loaded: LoadedModel, prompts: Sequence[Prompt], starts: Sequence[States]
) -> Prefilled:
    """Reads prompts that `fit_together` in one pass, which costs hardly more than one alone.

    Every row runs as many of its last tokens as the row with the most to run. So all padding lies
    on the left. Stored tokens that run again still count as found: no figure may tell what others
    ask at the same moment.
    """
    found = [start.tokens for start in starts]
    lengths = [len(prompt.token_ids) for prompt in prompts]
    tail = max(length - stored for length, stored in zip(lengths, found, strict=True))
    kept = [length - tail for length in lengths]
    positions = [loaded.positions(prompt) for prompt in prompts]
    cache = new_cache(loaded.layer_kinds, _joined(starts, kept))
    mask = columns_in_use(torch.tensor(lengths), max(lengths))
    output = loaded.forward(
        tail * len(prompts),
        input_ids=torch.tensor([prompt.token_ids[-tail:] for prompt in prompts]).to(loaded.device),
        attention_mask=mask.to(loaded.device),
        position_ids=torch.cat([one[..., -tail:] for one in positions], -2).to(loaded.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefilled(output.logits[:, -1], [row_of(loaded, one) for one in positions], cache, found)


def _joined(starts: Sequence[States], kept: Sequence[int]) -> Iterator[Columns]:
    """The first `kept` columns of each start as rows of one cache; none if nothing is kept.

    Layer by layer, as the cache copies them.
    """
    if not max(kept):
        return
    filled = next(start for start in starts if start.tokens)
    for i, layer in enumerate(filled.columns):
        # A prompt without a start keeps nothing: a row of padding.
        parts = [start.columns[i] if start.tokens else layer for start in starts]
        keys, values = (
            stack([part[side][:, :, :n] for part, n in zip(parts, kept, strict=True)], max(kept))
            for side in (0, 1)
        )
        yield keys, values
