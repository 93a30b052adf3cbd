"""The shapes of `/v1/responses`, for the API's reference and for clients made from it.

The endpoints read requests themselves; tests hold these models against what is really sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qwen_vl.api.logprobs import MOST_LIKELIEST
from qwen_vl.api.responses.request import (
    MOST_ID_CHARS,
    MOST_KEY_CHARS,
    MOST_METADATA,
    MOST_VALUE_CHARS,
)
from qwen_vl.api.schemas import PICTURE, ClipContent, FramesContent, LikelyTokens, Salt, sampled
from qwen_vl.sampling import EFFORTS
from qwen_vl.schema import FinishReason
from qwen_vl.tools import MOST_TOOLS

Name = Annotated[str, Field(max_length=MOST_ID_CHARS)]


class InputText(BaseModel):
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputPicture(BaseModel):
    type: Literal["input_image"]
    image_url: Annotated[str, Field(description="data:image/...;base64,...")]
    detail: Literal["low", "high", "auto", "original"] | None = None


class MessageItem(BaseModel):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputPicture | ClipContent | FramesContent]


class ThoughtText(BaseModel):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ThoughtItem(BaseModel):
    """What the model thought: in `content`, or in `summary` where summaries were asked for."""

    type: Literal["reasoning"]
    id: str | None = None
    content: list[ThoughtText] | None = None
    summary: list[ThoughtText] = []


class CallItem(BaseModel):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(max_length=MOST_ID_CHARS)]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    arguments: Annotated[str, Field(description="a JSON object, as text")]


class ResultItem(BaseModel):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(max_length=MOST_ID_CHARS)]
    output: str | list[InputText | InputPicture]


class ReferenceItem(BaseModel):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"]
    id: str


class FunctionTool(BaseModel):
    type: Literal["function"]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None, Field(description="a JSON schema of an object")
    ] = None
    strict: bool | None = None


class NamedFunction(BaseModel):
    type: Literal["function"]
    name: str


class AllowedTools(BaseModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class TextFormat(BaseModel):
    """Of `json_schema`, with its `name` and `schema`, the answer fits; as in chats."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(BaseModel):
    format: TextFormat | None = None


class ReasoningOptions(BaseModel):
    effort: Literal[EFFORTS] | None = None  # type: ignore[valid-type]
    summary: Annotated[
        Literal["auto", "concise", "detailed"] | None,
        Field(description="the thought comes as a summary, whole, and not as content"),
    ] = None


class ResponsesRequest(BaseModel):
    model_config = sampled(
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": PICTURE},
                    {"type": "input_text", "text": "What is in the picture?"},
                ],
            }
        ],
        temperature=0,
    )

    input: (
        Annotated[str, Field(min_length=1)]
        | list[MessageItem | ThoughtItem | CallItem | ResultItem | ReferenceItem]
    )
    instructions: Annotated[
        str | None, Field(description="a system message of this response alone")
    ] = None
    previous_response_id: Annotated[
        Name | None, Field(description="the stored response that this one goes on from")
    ] = None
    store: Annotated[
        bool | None, Field(description="false: the server does not remember the response")
    ] = None
    stream: bool | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Annotated[list[FunctionTool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MOST_LIKELIEST)] = None
    include: Annotated[
        list[str] | None, Field(description="message.output_text.logprobs; others change nothing")
    ] = None
    metadata: Annotated[
        dict[
            Annotated[str, Field(max_length=MOST_KEY_CHARS)],
            Annotated[str, Field(max_length=MOST_VALUE_CHARS)],
        ]
        | None,
        Field(max_length=MOST_METADATA),
    ] = None
    model: Annotated[str, Field(description="which of several models answers; else ignored")] = ""
    user: Name | None = None
    cache_salt: Salt = None


# --- answers ---

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class SaidText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[LikelyTokens]


class SaidItem(BaseModel):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[SaidText]


class ThoughtOutput(ThoughtItem):
    status: ItemStatus


class CallOutput(CallItem):
    id: str
    status: ItemStatus


class InputDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: Annotated[int, Field(description="tokens of the thought")]


class ResponsesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
    ttft_s: Annotated[float, Field(description="seconds to the first token, waiting included")]
    tokens_per_s: Annotated[float, Field(description="of decoding")]
    frames_s: list[float] | None = None
    damaged_s: list[list[float]] | None = None
    compact: bool | None = None


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class ResponseError(BaseModel):
    code: str
    message: str


class ResponseObject(BaseModel):
    """It also repeats what the request asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete", "cancelled", "failed", "in_progress"]
    native_finish_reason: FinishReason | None = None
    incomplete_details: IncompleteDetails | None
    error: ResponseError | None
    model: str
    output: list[SaidItem | ThoughtOutput | CallOutput]
    previous_response_id: str | None
    metadata: dict[str, str]
    usage: ResponsesUsage | None


class ResponseEvent(BaseModel):
    """One event of a stream. `type` is its name, too. The first and the last hold the response."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: int
    response: ResponseObject | None = None
    item_id: str | None = None
    output_index: int | None = None
    delta: Annotated[str | None, Field(description="a piece of text, thought or arguments")] = None


class ResponseDeleted(BaseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]
