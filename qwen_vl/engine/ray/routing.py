"""Which replica a question goes to: all turns of a conversation to one, while that has room.

What a replica has read already is then still in its cache. Knows conversations and names of
replicas; knows nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from qwen_vl.media.pictures import content_hash
from qwen_vl.schema import Message


class ConversationRouter(RequestRouter):
    """Ranks the replicas for a conversation: the first that has room gets it.

    Rendezvous hashing (Thaler and Ravishankar 1998): when a replica comes or goes, only the
    conversations that it gets or had move.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        conversation = pending_request.kwargs.get("conversation", "") if pending_request else ""

        def weight(candidate: RunningReplica) -> bytes:
            name = f"{conversation} {candidate.replica_id.unique_id}"
            return hashlib.blake2b(name.encode()).digest()

        return [[candidate] for candidate in sorted(candidate_replicas, key=weight, reverse=True)]


def conversation_of(messages: Sequence[Message]) -> str:
    """A name that all turns of a conversation share: what it begins with, up to its first question.

    An edited later turn keeps it. Two conversations that begin alike share it, and their prefix.
    No picture is decoded for it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.role}\0{message.text}\0".encode())
        for part in message.images:
            source = part.source
            key = content_hash(source) if isinstance(source, Image.Image) else source.key
            digest.update(f"{part.size}{part.time_s}{key}\0".encode())
        if message.role == "user":
            break
    return digest.hexdigest()
