"""The shared vocabulary: messages in, chunks of text out.

Knows nothing of Gradio, HTTP, files or torch. All values are immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, Protocol, TypeAlias

from PIL import Image

from qwen_vl.config import USUAL_IMAGE_TOKENS
from qwen_vl.sampling import SamplingParams

# "raw": a text that is gone on with as it stands, without a chat template; it stands alone
Role = Literal["system", "user", "assistant", "tool", "raw"]
# "tool_calls": the answer ended with calls of tools
# "repetition": the answer had fallen into a loop that would have gone on to the limit
FinishReason = Literal["stop", "length", "tool_calls", "repetition", "cancelled", "timeout"]
# "degraded": answers, but a request failed a moment ago
LoadState = Literal["loading", "ready", "degraded", "failed"]


@dataclass(frozen=True)
class TextPart:
    """Plain text. Never holds control tokens that mean anything: the engine sanitises them."""

    text: str


class Undecoded(Protocol):
    """A picture that is known by its size and content before it is decoded.

    `size` is (width, height) in pixels of what `decode` gives. Equal `key`s mean equal pixels.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def key(self) -> str: ...

    def decode(self) -> Image.Image:
        """The picture, upright RGB; decoded once while somebody uses it. Raises from `errors`."""
        ...

    def abandon(self) -> None:
        """Ends a decoding that is under way, from any thread: nobody wants the picture any more."""
        ...


@dataclass(frozen=True)
class ImagePart:
    """A safe RGB picture (see `media`), or a frame of a clip `time_s` seconds after its start.

    What is counted (`size`) is known at once; `image` decodes. `most_tokens` bounds its visual
    tokens below those of the question.
    """

    source: Image.Image | Undecoded
    time_s: float | None = None
    most_tokens: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.source.size

    @property
    def image(self) -> Image.Image:
        """The pixels. Raises what `Undecoded.decode` raises."""
        return self.source if isinstance(self.source, Image.Image) else self.source.decode()

    @property
    def held_bytes(self) -> int:
        """Memory that it takes now: its file's bytes until it is decoded."""
        width, height = self.size
        return getattr(self.source, "held_bytes", width * height * 3)


COMPACT_OVER = 16  # frames
Compact: TypeAlias = bool | Literal["auto"]


@dataclass(frozen=True)
class FramePair:
    """Two frames of a clip that share their visual tokens, in place of one picture.

    That is Qwen3-VL's own form of a clip: half the tokens. Both have one size and their own times.
    An `Undecoded`: it decodes to what is shown of it, its first frame.
    """

    first: ImagePart
    second: ImagePart

    @property
    def size(self) -> tuple[int, int]:
        return self.first.size

    @property
    def key(self) -> str:
        return f"{_key(self.first)} {_key(self.second)}"

    @property
    def held_bytes(self) -> int:
        return self.first.held_bytes + self.second.held_bytes

    def decode(self) -> Image.Image:
        return self.first.image

    def abandon(self) -> None:
        for frame in (self.first, self.second):
            if not isinstance(frame.source, Image.Image):
                frame.source.abandon()


def _key(part: ImagePart) -> str:
    source = part.source
    if not isinstance(source, Image.Image):
        return source.key
    return f"{source.size} {blake2b(source.tobytes(), digest_size=16).hexdigest()}"


def frames_of(part: ImagePart) -> tuple[ImagePart, ...]:
    """The pictures that a part stands for: two of a pair, else itself."""
    source = part.source
    return (source.first, source.second) if isinstance(source, FramePair) else (part,)


def is_paired(part: ImagePart | None) -> bool:
    """Whether a part stands for two frames."""
    return part is not None and isinstance(part.source, FramePair)


def as_wished(frames: Sequence[ImagePart], compact: Compact) -> list[ImagePart]:
    """`paired` or as they are; "auto" pairs them where they are so many that the cost tells."""
    pairs = len(frames) > COMPACT_OVER if compact == "auto" else compact
    return paired(frames) if pairs else list(frames)


def paired(frames: Sequence[ImagePart]) -> list[ImagePart]:
    """Frames of a clip in pairs, each at the mean of its two times; a last one alone stays so.

    Frames of different size, or without a time, stay as they are.
    """
    parts: list[ImagePart] = []
    waiting: ImagePart | None = None
    for frame in frames:
        if waiting is None or frame.size != waiting.size or frame.time_s is None:
            parts += [waiting] if waiting else []
            waiting = frame if frame.time_s is not None else None
            parts += [] if waiting else [frame]
            continue
        assert waiting.time_s is not None
        time_s = (waiting.time_s + frame.time_s) / 2
        parts.append(replace(waiting, source=FramePair(waiting, frame), time_s=time_s))
        waiting = None
    return [*parts, waiting] if waiting else parts


Part = TextPart | ImagePart


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants called. `arguments` is a JSON object, as text."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True)
class CallPiece:
    """A delta of a call: the first of each has its name and id, and all add to its arguments."""

    index: int  # which of the answer's calls
    arguments: str = ""
    name: str = ""
    id: str = ""


def joined_calls(pieces: Iterable[CallPiece]) -> tuple[ToolCall, ...]:
    """Whole calls, in the order in which they began; of an answer cut short, what there is."""
    calls: dict[int, ToolCall] = {}
    for piece in pieces:
        call = calls.get(piece.index) or ToolCall(piece.name, "", piece.id)
        calls[piece.index] = replace(call, arguments=call.arguments + piece.arguments)
    return tuple(calls.values())


@dataclass(frozen=True)
class Message:
    """One turn. Pictures stay where they stand among the texts."""

    role: Role
    parts: tuple[Part, ...]
    thought: str = ""  # of the model, before what it said; some chat templates show it again
    calls: tuple[ToolCall, ...] = ()  # of an assistant's turn
    call_id: str = ""  # of a tool's turn: the call that it answers

    @property
    def text(self) -> str:
        """The texts of the turn, joined without a separator."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


def is_raw(messages: Sequence[Message]) -> bool:
    """Whether this is no conversation, but a text to go on with."""
    return messages[0].role == "raw"


def without_pairs(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with each frame as a picture of its own."""

    def apart(part: Part) -> tuple[Part, ...]:
        return frames_of(part) if isinstance(part, ImagePart) else (part,)

    return [
        replace(message, parts=tuple(one for part in message.parts for one in apart(part)))
        for message in messages
    ]


def picture_bytes(messages: Sequence[Message]) -> int:
    """Memory that the pictures of a conversation take once they are decoded."""
    sizes = (part.size for message in messages for part in message.images)
    return sum(width * height * 3 for width, height in sizes)


def held_bytes(messages: Sequence[Message]) -> int:
    """Memory that the pictures of a conversation take now."""
    return sum(part.held_bytes for message in messages for part in message.images)


def abandon_pictures(messages: Sequence[Message]) -> None:
    """Ends the decoding of a conversation's pictures: nobody wants them any more."""
    for part in (part for message in messages for part in message.images):
        if not isinstance(part.source, Image.Image):
            part.source.abandon()


_DEFAULT = SamplingParams()

Thinking = Literal["never", "always", "switched"]
BoxScale = Literal["relative_1000", "pixels"]
ToolFormat = Literal["none", "json", "xml"]


@dataclass(frozen=True)
class Family:
    """What differs between model families, as the page and the API need it (see `families`)."""

    name: str = ""  # config.model_type; "" while it is not known
    sees_pictures: bool = True
    with_pictures: SamplingParams = _DEFAULT  # what its model card recommends
    text_only: SamplingParams = _DEFAULT
    thinking_with_pictures: SamplingParams = _DEFAULT  # the same when it thinks first
    thinking_text_only: SamplingParams = _DEFAULT
    thinking: Thinking = "never"  # "switched": by the template's argument enable_thinking
    opens_thought: bool = False  # it thinks unless it is told not to
    efforts: tuple[str, ...] = ()  # degrees of thinking that the template knows, the least first
    box_scale: BoxScale = "relative_1000"  # what numbers of boxes count: thousandths, or pixels
    token_px: int = 32  # the side of one visual token, in pixels
    pairs_frames: bool = False  # two frames of a clip may share their visual tokens
    tool_format: ToolFormat = "none"  # how the template writes tool calls
    timeline_prompt: str = ""  # asks for one line per event of a clip, with its time

    def preset(self, *, has_images: bool, thinks: bool | None = None) -> SamplingParams:
        """The recommended parameters for this kind of conversation.

        `thinks`: whether the answer begins with a thought; None is the model's own default.
        """
        if self.opens_thought if thinks is None else thinks:
            return self.thinking_with_pictures if has_images else self.thinking_text_only
        return self.with_pictures if has_images else self.text_only


@dataclass(frozen=True)
class Usage:
    """What an answer cost. `ttft_s` runs from the request to its first token, queueing included."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    thought_tokens: int = 0  # of the completion
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0  # of decoding, without the time to the first token
    accepted_tokens: int = 0  # of the completion: drafted, and found right by the model
    rejected_tokens: int = 0  # drafted for nothing


@dataclass(frozen=True)
class Cost:
    """What a question will cost, counted from sizes alone, before anything is decoded."""

    prompt_tokens: int  # of the whole conversation, its pictures included
    picture_tokens: tuple[int, ...]  # visual tokens of each picture, in their order
    most_tokens: int  # that prompt and answer together may have
    ttft_s: float | None = None  # about, once its turn has come; None: nothing was measured yet

    @property
    def is_too_long(self) -> bool:
        """Whether no room is left for an answer."""
        return self.prompt_tokens >= self.most_tokens


@dataclass(frozen=True)
class Standing:
    """How far a request is that has no words yet."""

    place: int = 0  # in the queue, where 1 is next; 0 when its turn has come
    picture: int = 0  # the one that is being read; 0 when all are read
    pictures: int = 0  # how many had to be read
    done: float = 0.0  # share of the prompt, 0..1
    left_s: float | None = None  # at this machine's own speed; None where it is not known


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer and its log probability: natural, at most 0, of the model's own
    distribution before anything that sampling does to it."""

    raw: bytes  # a character may be spread over several tokens
    logprob: float
    likeliest: tuple[TokenLogprob, ...] = ()  # the tokens in its place, the likeliest first

    @property
    def text(self) -> str:
        return self.raw.decode(errors="replace")


@dataclass(frozen=True)
class Chunk:
    """A delta of text, of the thought before it, or of calls of tools. Only the last chunk of an
    answer carries `finish_reason` and `usage`. `logprobs` are of the text's tokens, where they
    were asked for."""

    text: str = ""
    thought: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[CallPiece, ...] = ()
    choice: int = 0  # which of several answers to one request


@dataclass(frozen=True)
class EngineStatus:
    """What is running. `progress` is 0..1 while loading, None when unknown."""

    state: LoadState
    model_id: str
    detail: str = ""  # loading: the step; failed and degraded: the cause, and the next step
    progress: float | None = None
    device: str = ""
    dtype: str = ""
    reason: str = ""  # why this dtype and thread count were chosen
    notice: str = ""  # what a user must know, e.g. that this is the bundled demo model
    family: Family = Family()
    most_image_tokens: int | None = None  # of one picture, by the checkpoint; None: not known
    image_tokens: int = USUAL_IMAGE_TOKENS  # of one picture, where nobody says
    context_tokens: int | None = None  # that the model was made for; None: not known
    others: tuple[EngineStatus, ...] = ()  # of further models, which a request may name

    def of(self, model: str) -> EngineStatus:
        """The status of the model of this name; where only one model runs, of that one."""
        return next((one for one in self.others if one.model_id == model), self)

    def most_tokens(self, limit: int) -> int:
        """Of prompt and answer together: `limit`, or what the model was made for if less."""
        return min(limit, self.context_tokens or limit)

    @property
    def accepts_images(self) -> bool:
        return self.family.sees_pictures

    @property
    def answers(self) -> bool:
        """Whether requests are taken."""
        return self.state in ("ready", "degraded")

    @property
    def is_text_only(self) -> bool:
        """Whether the model that answers takes no pictures; not known while it loads."""
        return self.answers and not self.accepts_images


@dataclass(frozen=True)
class UpstreamStats:
    """A server behind this one."""

    url: str
    healthy: bool
    running: int  # answers that it is writing for us


@dataclass(frozen=True)
class EngineStats:
    """What the engine is doing now and has done so far, in numbers."""

    waiting: int = 0  # requests in the queue
    running: int = 0  # rows of the batch
    prefix_hits: int = 0  # prompts of which a part was there already
    prefix_misses: int = 0
    prefix_bytes: int = 0
    vision_hits: int = 0  # pictures that were encoded already
    vision_misses: int = 0
    vision_bytes: int = 0
    gpu_bytes: int = 0  # allocated on all GPUs
    upstreams: tuple[UpstreamStats, ...] = ()  # of the remote engine
