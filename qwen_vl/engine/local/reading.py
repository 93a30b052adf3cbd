"""How far a prompt has been read, and how fast this machine reads: measured as it reads.

Knows counts of tokens and a clock. Knows nothing of models or of the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from qwen_vl.schema import Standing

MEASURED_TOKENS = 32  # what is shorter takes its time for other reasons
KEPT_SHARE = 0.8  # of what was measured before, each time there is a new measurement


class Speed:
    """Tokens in a second, of the last few measurements; long ones count more."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def tokens_per_s(self) -> float:
        """0 as long as nothing was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        if tokens < MEASURED_TOKENS or seconds <= 0:
            return
        self._tokens = KEPT_SHARE * self._tokens + tokens
        self._seconds = KEPT_SHARE * self._seconds + seconds

    def seconds(self, tokens: int) -> float | None:
        """How long so many tokens take; None as long as nothing was measured."""
        if not tokens:
            return 0.0
        return tokens / self.tokens_per_s if self._seconds else None


class Speeds:
    """Of the vision encoder, in visual tokens, and of the prefill, in tokens of the prompt."""

    def __init__(self) -> None:
        self.encoding, self.prefill = Speed(), Speed()

    def seconds(self, visual: int, tokens: int) -> float | None:
        """How long it takes to encode `visual` of a prompt's tokens and to read `tokens` of them.

        None as long as a speed that it needs was not measured.
        """
        encoding_s, prefill_s = self.encoding.seconds(visual), self.prefill.seconds(tokens)
        return None if encoding_s is None or prefill_s is None else encoding_s + prefill_s


class Reading:
    """One prompt on its way through the model. `tell` hears how far it is, at every step.

    A picture's tokens are work twice, as it is encoded and as they are read; all others once.
    """

    def __init__(
        self, speeds: Speeds | None = None, tell: Callable[[Standing], None] = lambda _: None
    ) -> None:
        self._speeds = speeds or Speeds()
        self._tell = tell
        self._pictures: Sequence[int] = ()
        self._encoded = self._done = self._tokens = 0

    def begin(self, pictures: Sequence[int], tokens: int) -> None:
        """`pictures` are the visual tokens of each one to encode; `tokens` has them as well."""
        self._pictures, self._tokens = pictures, tokens
        self._report()

    def encoded(self) -> None:
        """One more picture has been encoded."""
        self._encoded += 1
        self._report()

    def prefilled(self, tokens: int, began_s: float) -> None:
        """So many more tokens are in the cache; `began_s` is on the monotonic clock."""
        self._done += tokens
        self._speeds.prefill.add(tokens, time.monotonic() - began_s)
        self._report()

    def _report(self) -> None:
        visual_left, tokens_left = sum(self._pictures[self._encoded :]), self._tokens - self._done
        work = sum(self._pictures) + self._tokens
        self._tell(
            Standing(
                picture=self._encoded + 1 if visual_left else 0,
                pictures=len(self._pictures),
                done=1 - (visual_left + tokens_left) / max(1, work),
                left_s=self._speeds.seconds(visual_left, tokens_left),
            )
        )
