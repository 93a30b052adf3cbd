"""Client libraries against a running server: a table of client x feature.

    make test-clients

Every cell is asserted on its shape, not on its wit: the bundled model answers. A cell is "ok", "-"
where the client has no such feature, "later" where the server has not (404 or a refusal by name),
or what went wrong. Ends with status 1 if anything went wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BASE = sys.argv[1].rstrip("/")
V1, KEY, MODEL = f"{BASE}/v1", "none", "qwen"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICTURE = ROOT / "examples/images/scene.png"
URI = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
QUESTION = "Describe the image."
FEATURES = ("whole", "picture", "stream", "parse", "tools", "responses")


class Shape(BaseModel):
    """Bounded and closed: so small a model writes digits, and fields of its own, without end."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["circle", "square", "triangle"]
    count: Annotated[int, Field(ge=0, le=9)]


ASKED = [{"role": "user", "content": QUESTION}]
SHOWN = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": URI}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "count_shapes",
        "description": "Counts shapes.",
        "parameters": Shape.model_json_schema(),
    },
}

Cells = dict[str, Callable[[], object]]


class NotYet(Exception):
    """The server does not have this, and says so."""


def said(text: object) -> None:
    assert isinstance(text, str), text
    assert text.strip(), "the answer is empty"


def openai_python() -> Cells:
    from openai import BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=V1, api_key=KEY, max_retries=0)
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "temperature": 0}

    def whole() -> None:
        said(client.chat.completions.create(messages=ASKED, **ask).choices[0].message.content)

    def picture() -> None:
        said(client.chat.completions.create(messages=SHOWN, **ask).choices[0].message.content)

    def stream() -> None:
        chunks = list(client.chat.completions.create(messages=SHOWN, stream=True, **ask))
        said("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))

    def parse() -> None:
        parsed = client.chat.completions.parse(messages=SHOWN, response_format=Shape, **ask)
        assert isinstance(parsed.choices[0].message.parsed, Shape)

    def tools() -> None:
        try:
            answer = client.chat.completions.create(
                messages=SHOWN, tools=[TOOL], tool_choice="required", **ask
            )
        except BadRequestError as error:
            raise NotYet from error
        calls = answer.choices[0].message.tool_calls
        if not calls:
            raise NotYet
        Shape.model_validate_json(calls[0].function.arguments)

    def responses() -> None:
        try:
            answer = client.responses.create(model=MODEL, input=QUESTION)
        except NotFoundError as error:
            raise NotYet from error
        said(answer.output_text)

    return locals_of(whole, picture, stream, parse, tools, responses)


def langchain() -> Cells:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=V1, api_key=KEY, model=MODEL, temperature=0, max_tokens=64, max_retries=0
    )

    def whole() -> None:
        said(model.invoke(QUESTION).content)

    def picture() -> None:
        said(model.invoke(SHOWN).content)

    def stream() -> None:
        said("".join(str(chunk.content) for chunk in model.stream(QUESTION)))

    def parse() -> None:
        assert isinstance(model.with_structured_output(Shape).invoke(SHOWN), Shape)

    def tools() -> None:
        calls = model.bind_tools([TOOL], tool_choice="required").invoke(SHOWN).tool_calls
        if not calls:
            raise NotYet
        Shape.model_validate(calls[0]["args"])

    return locals_of(whole, picture, stream, parse, tools)


def litellm() -> Cells:
    import litellm

    ask: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": V1, "api_key": KEY}
    ask |= {"max_tokens": 64, "temperature": 0}

    def whole() -> None:
        said(litellm.completion(messages=ASKED, **ask).choices[0].message.content)

    def picture() -> None:
        said(litellm.completion(messages=SHOWN, **ask).choices[0].message.content)

    def stream() -> None:
        chunks = litellm.completion(messages=ASKED, stream=True, **ask)
        said("".join(chunk.choices[0].delta.content or "" for chunk in chunks))

    def parse() -> None:
        answer = litellm.completion(messages=SHOWN, response_format=Shape, **ask)
        Shape.model_validate_json(answer.choices[0].message.content)

    return locals_of(whole, picture, stream, parse)


def instructor() -> Cells:
    import instructor
    from openai import OpenAI

    client = instructor.from_openai(
        OpenAI(base_url=V1, api_key=KEY, max_retries=0), mode=instructor.Mode.JSON_SCHEMA
    )

    def parse() -> None:
        told = client.chat.completions.create(
            model=MODEL, messages=SHOWN, response_model=Shape, max_tokens=64, max_retries=0
        )
        assert isinstance(told, Shape)

    return locals_of(parse)


def pydantic_ai() -> Cells:
    from pydantic_ai import Agent, BinaryContent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=V1, api_key=KEY))
    shown = [QUESTION, BinaryContent(data=PICTURE.read_bytes(), media_type="image/png")]

    def whole() -> None:
        said(Agent(model).run_sync(QUESTION).output)

    def picture() -> None:
        said(Agent(model).run_sync(shown).output)

    def parse() -> None:
        agent = Agent(model, output_type=NativeOutput(Shape))
        assert isinstance(agent.run_sync(shown).output, Shape)

    return locals_of(whole, picture, parse)


def llama_index() -> Cells:
    from llama_index.llms.openai_like import OpenAILike

    ask: dict[str, Any] = {"model": MODEL, "api_base": V1, "api_key": KEY, "max_tokens": 32}
    chat, text = OpenAILike(is_chat_model=True, **ask), OpenAILike(**ask)

    def whole() -> None:
        said(chat.complete(QUESTION).text)
        said(text.complete("There are three shapes:").text)  # /v1/completions

    def stream() -> None:
        said(list(chat.stream_complete(QUESTION))[-1].text)

    return locals_of(whole, stream)


def gradio_client() -> Cells:
    from gradio_client import Client, handle_file

    client = Client(BASE, verbose=False)

    def whole() -> None:
        said(client.predict(QUESTION, [], api_name="/ask"))

    def picture() -> None:
        said(client.predict(QUESTION, [handle_file(str(PICTURE))], api_name="/ask"))
        clip = handle_file(str(ROOT / "examples/clip.webm"))
        frames = client.predict(clip, "even", 2, api_name="/keyframes")
        assert len(frames) == 2

    def stream() -> None:
        told = list(client.submit(QUESTION, [], api_name="/ask"))
        said(told[-1])

    return locals_of(whole, picture, stream)


def mcp() -> Cells:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def call(tool: str, **arguments: Any) -> Any:
        async with (
            streamable_http_client(f"{BASE}/mcp") as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            assert {one.name for one in (await session.list_tools()).tools} == {"ask", "keyframes"}
            return (await session.call_tool(tool, arguments)).content

    def whole() -> None:
        said(asyncio.run(call("ask", question=QUESTION))[0].text)

    def picture() -> None:
        said(asyncio.run(call("ask", question=QUESTION, pictures=[URI]))[0].text)
        data = base64.b64encode((ROOT / "examples/clip.webm").read_bytes()).decode()
        clip = f"data:video/webm;base64,{data}"
        told = asyncio.run(call("keyframes", clip=clip, method="even", count=2))
        assert [one.type for one in told] == ["text", "image"] * 2

    return locals_of(whole, picture)


def locals_of(*cells: Callable[[], object]) -> Cells:
    return {cell.__name__: cell for cell in cells}


def in_python(make: Callable[[], Cells]) -> dict[str, str]:
    try:
        cells = make()
    except Exception as error:  # noqa: BLE001 - a client may raise anything; the table tells it
        return {feature: _short(error) for feature in FEATURES}
    return {feature: _cell(cell) for feature, cell in cells.items()}


def in_node(name: str) -> dict[str, str]:
    """The cells that `clients.mjs` prints as one JSON object."""
    done = subprocess.run(
        ["node", "clients.mjs", name, BASE, str(PICTURE)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        return {feature: _short(done.stderr) for feature in FEATURES}
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


def _cell(cell: Callable[[], object]) -> str:
    try:
        cell()
    except NotYet:
        return "later"
    except Exception as error:  # noqa: BLE001 - as above
        return _short(error)
    return "ok"


def _short(error: object) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


PYTHON: tuple[Callable[[], Cells], ...] = (
    *(openai_python, langchain, litellm, instructor, pydantic_ai, llama_index),
    *(gradio_client, mcp),
)


def main() -> int:
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    table = {make.__name__: in_python(make) for make in PYTHON}
    table |= {name: in_node(name) for name in ("openai_node", "ai_sdk")}
    good = ("ok", "later", "-")
    print("| client | " + " | ".join(FEATURES) + " |")
    print("|---" * (1 + len(FEATURES)) + "|")
    wrong = []
    for client, cells in table.items():
        row = [cells.get(feature, "-") for feature in FEATURES]
        wrong += [f"{client}, {f}: {cell}" for f, cell in cells.items() if cell not in good]
        print(f"| {client} | " + " | ".join(c if c in good else "WRONG" for c in row) + " |")
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
