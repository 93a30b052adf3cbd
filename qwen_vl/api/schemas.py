"""The shapes of requests and answers, for the API's reference and for clients made from it.

The endpoints read requests themselves, as they are lenient where clients differ. Tests hold these
models against what is really sent and refused. Source of the chat format: the OpenAI API reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qwen_vl.api.logprobs import MOST_LIKELIEST
from qwen_vl.config import MAX_BATCH
from qwen_vl.constraint import MOST_CHOICES, MOST_GRAMMAR_CHARS
from qwen_vl.jobs import JobStatus
from qwen_vl.sampling import FIELDS, json_schema, wire_names
from qwen_vl.schema import FinishReason, LoadState
from qwen_vl.tools import MOST_TOOLS

# A small red square, so that the examples can be tried as they stand.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4Ad"
    "MDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="
)


def sampling_properties() -> dict[str, Any]:
    """The sampling fields of a request, by all of their names."""
    return {wire: json_schema(name) for name in FIELDS for wire in wire_names(name)}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


def sampled(**example: Any) -> ConfigDict:
    """For requests that take the sampling fields too."""

    def add(schema: dict[str, Any]) -> None:
        schema["properties"] |= sampling_properties()
        schema["examples"] = [example]

    return ConfigDict(json_schema_extra=add)


# --- requests ---

DataUri = Annotated[str, Field(description="data:image/...;base64,...")]
Salt = Annotated[
    str | None,
    Field(
        max_length=200,
        description="caches filled under one salt serve no other salt; not for jobs",
    ),
]


class Address(BaseModel):
    url: str


class TextContent(BaseModel):
    type: Literal["text"]
    text: str


class PictureContent(BaseModel):
    type: Literal["image_url"]
    image_url: Address


CompactWish = Annotated[
    bool | Literal["auto"],
    Field(description="whether two frames share their tokens; auto: from 17 frames on"),
]


class ClipContent(BaseModel):
    """A clip, and which of its frames are wanted.

    Without a `method`: every `every_s` seconds or `fps` times a second where that is given, else
    `count` frames spread evenly where that is, else what happens in it.
    """

    type: Literal["video_url"]
    video_url: Address
    method: Literal["auto", "scenes", "even", "interval"] | None = None
    every_s: Annotated[float | None, Field(gt=0)] = None
    fps: Annotated[float | None, Field(gt=0)] = None
    count: Annotated[int | None, Field(ge=1)] = None
    max_frames: Annotated[int | None, Field(ge=1)] = None
    fast: Annotated[
        bool, Field(description="with auto and scenes: keyframes first, and the rest where needed")
    ] = False
    compact: CompactWish = "auto"


class FramesContent(BaseModel):
    """Frames of a clip that the client has chosen, with their times."""

    type: Literal["video"]
    frames: Annotated[list[DataUri], Field(min_length=1)]
    timestamps_s: list[Annotated[float, Field(ge=0)]]
    compact: CompactWish = "auto"


class FileData(BaseModel):
    file_data: DataUri
    filename: str | None = None


class DocumentContent(BaseModel):
    """A PDF, whose pages become pictures; `pages` says which, else they are the first ones."""

    type: Literal["file"]
    file: FileData
    pages: Annotated[str | None, Field(description="as in 1-3, 7")] = None


class CalledFunction(BaseModel):
    name: str
    arguments: Annotated[str, Field(description="a JSON object, as text")]


class ToolCallObject(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class RequestMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        str
        | list[TextContent | PictureContent | ClipContent | FramesContent | DocumentContent]
        | None
    ) = None
    tool_calls: Annotated[
        list[ToolCallObject] | None, Field(description="of an earlier answer")
    ] = None
    function_call: CalledFunction | None = None
    tool_call_id: Annotated[str | None, Field(max_length=200)] = None
    name: str | None = None


class FunctionObject(BaseModel):
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None, Field(description="a JSON schema of an object")
    ] = None
    strict: bool | None = None


class ToolObject(BaseModel):
    type: Literal["function"] = "function"
    function: FunctionObject


class FunctionName(BaseModel):
    name: str


class NamedTool(BaseModel):
    type: Literal["function"] = "function"
    function: FunctionName


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class NamedSchema(BaseModel):
    """Without `strict`, keywords that cannot be enforced say nothing; with it they are refused."""

    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    name: Annotated[str, Field(min_length=1, max_length=64)] = "answer"
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(BaseModel):
    """The answer is a JSON object, or fits a JSON schema; or it is cut off as `length` says."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None


JsonSchema = Annotated[dict[str, Any] | str, Field(description="a JSON schema, or its text")]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_CHOICES)
]
Pattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MOST_GRAMMAR_CHARS,
        description="a regex of the whole answer, without look-around",
    ),
]
Grammar = Annotated[
    str, Field(min_length=1, max_length=MOST_GRAMMAR_CHARS, description="a Lark grammar")
]


class StructuredOutputs(BaseModel):
    """vLLM's way to say what the answer must look like: one of these."""

    json_: Annotated[JsonSchema | None, Field(alias="json")] = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None


class Constrained(BaseModel):
    """What the answer must look like; one of these fields."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None


class ChatRequest(Constrained):
    model_config = sampled(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": PICTURE}},
                    {"type": "text", "text": "What is in the picture?"},
                ],
            }
        ],
        temperature=0,
        stream=True,
    )

    messages: Annotated[list[RequestMessage], Field(min_length=1)]
    tools: Annotated[list[ToolObject] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool | None,
        Field(description="required and a name bind what is written: it always parses"),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Field(description="false: at most one call in an answer")
    ] = None
    model: Annotated[str, Field(description="which of several models answers; else ignored")] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[
        int | None, Field(ge=1, le=MAX_BATCH, description="answers, up to --max-batch")
    ] = None
    logprobs: Annotated[
        bool | None, Field(description="tell the log probability of each token of the answer")
    ] = None
    top_logprobs: Annotated[
        int | None,
        Field(
            ge=0,
            le=MOST_LIKELIEST,
            description="so many of the likeliest tokens beside each; goes with logprobs",
        ),
    ] = None
    cache_salt: Salt = None


class TextRequest(Constrained):
    """Texts to go on with, without a chat template; at most --max-batch answers in all."""

    model_config = sampled(prompt="There are three shapes:", max_tokens=16, temperature=0)

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    )
    model: Annotated[str, Field(description="which of several models answers; else ignored")] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_BATCH)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_LIKELIEST)] = None
    echo: Annotated[bool | None, Field(description="begin with the prompt; not with logprobs")] = (
        None
    )
    cache_salt: Salt = None


class SimpleRequest(Constrained):
    model_config = sampled(text="Hello", session_id="a-random-name")

    text: Annotated[str, Field(min_length=1)]
    image: DataUri | None = None
    session_id: Annotated[
        str | None,
        Field(
            max_length=200,
            description="the server remembers the conversation under this name; without API keys "
            "whoever knows it and calls from the same address can go on with it",
        ),
    ] = None
    cache_salt: Salt = None


class PictureForm(BaseModel):
    image: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    prompt: Annotated[str, Field(description="what to ask; by default to describe it")] = ""
    stream: bool = False


# --- answers ---


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    reasoning_tokens: Annotated[int, Field(description="tokens of the thought")]
    accepted_prediction_tokens: Annotated[
        int, Field(description="tokens that were drafted from prompt or answer, and right")
    ] = 0
    rejected_prediction_tokens: Annotated[
        int, Field(description="tokens that were drafted for nothing; not part of the completion")
    ] = 0


class UsageObject(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    ttft_s: Annotated[float, Field(description="seconds to the first token, waiting included")]
    tokens_per_s: Annotated[float, Field(description="of decoding")]
    frames_s: Annotated[
        list[float] | None, Field(description="when the frames are shown, as a player counts")
    ] = None
    damaged_s: Annotated[
        list[list[float]] | None,
        Field(description="stretches of clips that could not be decoded"),
    ] = None
    compact: Annotated[
        bool | None, Field(description="true where two frames shared their tokens")
    ] = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCallObject] | None = None
    reasoning_content: Annotated[str, Field(description="the thought before the answer")] = ""
    reasoning: Annotated[str, Field(description="the same")] = ""


class TokenLogprobObject(BaseModel):
    """Of the model's own distribution: before penalties, constraints, temperature and filters."""

    token: str
    logprob: Annotated[float, Field(le=0)]
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class LikelyTokens(TokenLogprobObject):
    top_logprobs: Annotated[
        list[TokenLogprobObject], Field(description="in its place, the likeliest first")
    ]


class LogprobsObject(BaseModel):
    content: list[LikelyTokens]
    refusal: None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: LogprobsObject | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    native_finish_reason: FinishReason


class ChatCompletion(BaseModel):
    model_config = _example(
        id="chatcmpl-1",
        object="chat.completion",
        created=1_760_000_000,
        model="Qwen/Qwen3-VL-2B-Instruct",
        choices=[
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A cat on a chair."},
                "logprobs": None,
                "finish_reason": "stop",
                "native_finish_reason": "stop",
            }
        ],
        usage={
            "prompt_tokens": 281,
            "completion_tokens": 6,
            "total_tokens": 287,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "ttft_s": 0.9,
            "tokens_per_s": 18.2,
        },
    )

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageObject | None


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(BaseModel):
    """The first piece of a call has its id and its name, the next ones add arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: LogprobsObject | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    native_finish_reason: FinishReason | None = None


class ChatCompletionChunk(BaseModel):
    """One `data:` event of a stream, which ends with `data: [DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageObject | None = None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    native_finish_reason: FinishReason | None = None


class TextCompletion(BaseModel):
    """A whole answer, or one `data:` event of a stream, which ends with `data: [DONE]`."""

    model_config = _example(
        id="cmpl-1",
        object="text_completion",
        created=1_760_000_000,
        model="Qwen/Qwen3-VL-2B-Instruct",
        choices=[
            {
                "index": 0,
                "text": " a circle, a square and a star.",
                "logprobs": None,
                "finish_reason": "stop",
                "native_finish_reason": "stop",
            }
        ],
        usage=None,
    )

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageObject | None = None


class TokenEvent(BaseModel):
    """One `data:` event of /stream_chat: a piece of text, and at the end why it ended."""

    model_config = _example(token=" chair")

    token: str | None = None
    finish_reason: FinishReason | None = None
    usage: UsageObject | None = None


class JobTaken(BaseModel):
    model_config = _example(task_id="PICKED-BY-THE-SERVER", status="processing")

    task_id: str
    status: JobStatus


class JobError(BaseModel):
    message: str
    code: str | None


class JobResult(BaseModel):
    model_config = _example(
        task_id="PICKED-BY-THE-SERVER",
        status="processing",
        created=1_760_000_000.0,
        position=1,
        result="",
    )

    task_id: str
    status: JobStatus
    result: Annotated[str, Field(description="so far, or all of it")]
    created: Annotated[float, Field(description="Unix time")]
    position: Annotated[int, Field(description="in the queue; 0: being answered")] = 0
    finished: float | None = None
    finish_reason: FinishReason | None = None
    usage: UsageObject | None = None
    error: JobError | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: Annotated[int, Field(description="tokens of prompt and answer together")]
    context_length: Annotated[int, Field(description="the same")]
    input_modalities: list[Literal["text", "image"]]


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class UpstreamHealth(BaseModel):
    url: str
    healthy: bool
    running: int


class Health(BaseModel):
    status: LoadState | Literal["draining"]
    model: str
    detail: str
    progress: Annotated[float | None, Field(ge=0, le=1)]
    device: str
    dtype: str
    reason: Annotated[str, Field(description="why this precision and thread count were chosen")]
    notice: str
    family: Annotated[str, Field(description="config.model_type; empty where it is not known")]
    accepts_images: bool
    live: bool
    ready: bool
    version: str
    upstreams: list[UpstreamHealth] | None = None


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class Error(BaseModel):
    model_config = _example(
        error={
            "message": "'temperature' must be between 0 and 2.",
            "type": "invalid_request_error",
            "param": None,
            "code": "bad_request",
        }
    )

    error: ErrorObject
