"""What prompts begin with whoever asks: read once at the start, and shared by everybody."""

from __future__ import annotations

from qwen_vl.engine.local.cache import columns_of
from qwen_vl.engine.local.prefill import next_part, prefill
from qwen_vl.engine.local.prefix import PrefixStore, token_keys
from qwen_vl.engine.local.states import States
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.prompt import Prompt

SHARED_TOKENS = 8  # a shorter beginning that all prompts have is not worth keeping


def read_own_texts(loaded: LoadedModel, system_prompt: str, prefixes: PrefixStore) -> None:
    """Runs what prompts begin with whoever asks, and shares it with all scopes: the server's system
    prompt, and what the template says where there is none.
    """
    for own in dict.fromkeys((system_prompt, "")):
        head = Prompt(loaded.prompts.head(own), [])
        if len(head.token_ids) < SHARED_TOKENS:
            continue
        end = len(head.token_ids)
        snapshots_at = [end] if loaded.is_recurrent else []
        parts = prefill(loaded, head, States(), lambda _: [], snapshots_at)
        while (done := next_part(parts)) is None:
            pass
        keys = token_keys(head, loaded.image_token_id)
        prefixes.share(keys, columns_of(done.cache, 0, end), done.snapshots)
