"""How much memory sequences may hold: pixels before their prompts are read, states after that.

Not safe between threads: the scheduler locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qwen_vl.config import Settings
from qwen_vl.engine.local.sequence import Sequence

PIXEL_BYTES = 2**27  # of sequences whose prompts are not read yet: 30 or so pictures of full HD


class Budget:
    """Long sequences together hold no more tokens than one conversation may have.

    A sequence is long where its prompt needs more than one row's share of that. The others always
    find room.
    """

    def __init__(self, settings: Settings) -> None:
        self._share_tokens = settings.max_context_tokens // settings.max_batch
        self._long_tokens = settings.max_context_tokens
        self._decoding_bytes = 0

    def has_room_for(self, pixel_bytes: int, unread: Iterable[Sequence]) -> bool:
        """Whether more pixels may be held beside those of `unread`. A first request always may."""
        held_bytes = self._decoding_bytes + sum(one.prepared.pixel_bytes for one in unread)
        return not (held_bytes and pixel_bytes) or held_bytes + pixel_bytes <= PIXEL_BYTES

    def hold(self, pixel_bytes: int) -> None:
        """For pixels that are being decoded; a negative number gives them back."""
        self._decoding_bytes += pixel_bytes

    def that_fit(self, order: Iterable[Sequence], held: Iterable[Sequence]) -> Iterator[Sequence]:
        """Those for which there is memory beside `held`, if all that came before are taken too."""
        long_tokens = sum(one.most_tokens for one in held if self._is_long(one))
        for sequence in order:
            if self._is_long(sequence):
                long_tokens += sequence.most_tokens
                # A first one always fits. Where one has to wait, all after it do, or it starves.
                if long_tokens > self._long_tokens:
                    continue
            yield sequence

    def _is_long(self, sequence: Sequence) -> bool:
        return len(sequence.keys) > self._share_tokens
