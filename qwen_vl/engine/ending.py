"""The one rule for a stream that ends without a last chunk: it is a failure, never an answer.

Knows chunks; knows nothing of who writes or reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from qwen_vl.errors import EngineFailed
from qwen_vl.schema import Chunk

log = logging.getLogger(__name__)


def to_the_end(answer: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks of `answer`, up to and including its last one.

    Raises EngineFailed if there is none, and what iterating `answer` raises.
    """
    for chunk in answer:
        yield chunk
        if chunk.finish_reason is not None:
            return
    log.error("an answer ended without a last chunk")
    raise EngineFailed("The answer broke off before its end: try again.")
