"""Clients of the OpenAI API: for each of them, a function that makes its cells."""

from __future__ import annotations

from typing import Any

from asked import (
    ASKED,
    FUNCTION,
    KEY,
    LIMITS,
    MODEL,
    PICTURE,
    QUESTION,
    SHOWN,
    SHOWN_ITEMS,
    TOOL,
    URI,
    V1,
    Cells,
    Shape,
    cells,
    said,
)


def openai_python() -> Cells:
    from openai import OpenAI

    client = OpenAI(base_url=V1, api_key=KEY, max_retries=0)
    ask: dict[str, Any] = {"model": MODEL, **LIMITS}

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
        asked: Any = {"messages": SHOWN, "tools": [TOOL], "tool_choice": "required", **ask}
        (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls or ()
        Shape.model_validate_json(call.function.arguments)
        with client.chat.completions.stream(**asked) as events:
            (call,) = events.get_final_completion().choices[0].message.tool_calls or ()
        Shape.model_validate_json(call.function.arguments)

    def responses() -> None:
        asked: Any = {"model": MODEL, "input": SHOWN_ITEMS, "max_output_tokens": 64}
        first = client.responses.create(**asked)
        said(first.output_text)
        with client.responses.stream(**asked, temperature=0) as events:
            said("".join(e.delta for e in events if e.type == "response.output_text.delta"))
        assert isinstance(client.responses.parse(**asked, text_format=Shape).output_parsed, Shape)
        tool: Any = {"type": "function", **FUNCTION, "strict": True}
        called = client.responses.create(**asked, tools=[tool], tool_choice="required")
        Shape.model_validate_json(called.output[-1].arguments)
        more = client.responses.create(
            model=MODEL, input=QUESTION, previous_response_id=first.id, max_output_tokens=64
        )
        assert client.responses.retrieve(more.id).previous_response_id == first.id
        client.responses.delete(more.id)

    return cells(whole, picture, stream, parse, tools, responses)


def langchain() -> Cells:
    from langchain_openai import ChatOpenAI

    ask: dict[str, Any] = {"base_url": V1, "api_key": KEY, "model": MODEL, "max_retries": 0}
    model = ChatOpenAI(**ask, **LIMITS)

    def whole() -> None:
        said(model.invoke(QUESTION).content)

    def picture() -> None:
        said(model.invoke(SHOWN).content)

    def stream() -> None:
        said("".join(str(chunk.content) for chunk in model.stream(QUESTION)))

    def parse() -> None:
        assert isinstance(model.with_structured_output(Shape).invoke(SHOWN), Shape)

    def tools() -> None:
        (call,) = model.bind_tools([TOOL], tool_choice="required").invoke(SHOWN).tool_calls
        Shape.model_validate(call["args"])

    def responses() -> None:
        newer = ChatOpenAI(**ask, **LIMITS, use_responses_api=True)
        said(newer.invoke(SHOWN).text)
        said("".join(chunk.text for chunk in newer.stream(QUESTION)))
        assert isinstance(newer.with_structured_output(Shape).invoke(SHOWN), Shape)
        (call,) = newer.bind_tools([TOOL], tool_choice="required").invoke(SHOWN).tool_calls
        Shape.model_validate(call["args"])

    return cells(whole, picture, stream, parse, tools, responses)


def litellm() -> Cells:
    import litellm

    where: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": V1, "api_key": KEY}
    ask = where | LIMITS

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

    def tools() -> None:
        answer = litellm.completion(messages=SHOWN, tools=[TOOL], tool_choice="required", **ask)
        (call,) = answer.choices[0].message.tool_calls
        Shape.model_validate_json(call.function.arguments)

    def responses() -> None:
        asked: Any = {"input": SHOWN_ITEMS, "max_output_tokens": 64, **where}
        said(litellm.responses(**asked).output_text)
        events = list(litellm.responses(**asked, stream=True))
        said("".join(e.delta for e in events if e.type == "response.output_text.delta"))

    return cells(whole, picture, stream, parse, tools, responses)


def instructor() -> Cells:
    import instructor
    from openai import OpenAI

    api = OpenAI(base_url=V1, api_key=KEY, max_retries=0)

    def shape_by(mode: Any, **fields: Any) -> None:
        client = instructor.from_openai(api, mode=mode)
        told = client.chat.completions.create(
            model=MODEL, response_model=Shape, max_retries=0, **fields
        )
        assert isinstance(told, Shape)

    def parse() -> None:
        shape_by(instructor.Mode.JSON_SCHEMA, messages=SHOWN, max_tokens=64)

    def tools() -> None:
        shape_by(instructor.Mode.TOOLS, messages=SHOWN, max_tokens=64)

    def responses() -> None:
        client = instructor.from_openai(api, mode=instructor.Mode.RESPONSES_TOOLS)
        told = client.responses.create(
            input=SHOWN_ITEMS, model=MODEL, response_model=Shape, max_retries=0
        )
        assert isinstance(told, Shape)

    return cells(parse, tools, responses)


def pydantic_ai() -> Cells:
    from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=V1, api_key=KEY)
    model: Any = OpenAIChatModel(MODEL, provider=provider)
    newer: Any = OpenAIResponsesModel(MODEL, provider=provider)
    shown = [QUESTION, BinaryContent(data=PICTURE.read_bytes(), media_type="image/png")]

    def whole() -> None:
        said(Agent(model).run_sync(QUESTION).output)

    def picture() -> None:
        said(Agent(model).run_sync(shown).output)

    def stream() -> None:
        said("".join(Agent(model).run_stream_sync(shown).stream_text(delta=True)))

    def parse() -> None:
        agent = Agent(model, output_type=NativeOutput(Shape))
        assert isinstance(agent.run_sync(shown).output, Shape)

    def tools() -> None:
        agent = Agent(model, output_type=ToolOutput(Shape))
        assert isinstance(agent.run_sync(shown).output, Shape)

    def responses() -> None:
        said(Agent(newer).run_sync(shown).output)
        said("".join(Agent(newer).run_stream_sync(shown).stream_text(delta=True)))
        for output in (NativeOutput(Shape), ToolOutput(Shape)):
            agent: Any = Agent(newer, output_type=output)
            assert isinstance(agent.run_sync(shown).output, Shape)

    return cells(whole, picture, stream, parse, tools, responses)


def openai_agents() -> Cells:
    import asyncio

    import agents
    from agents import Agent, ModelSettings, Runner
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)
    chat: Any = agents.OpenAIChatCompletionsModel(MODEL, client)
    newer: Any = agents.OpenAIResponsesModel(MODEL, client)  # what it takes by default
    limits = {"max_tokens": 64, "temperature": 0}
    # One for all: a client's connections belong to a loop.
    wait_for = asyncio.new_event_loop().run_until_complete

    def agent(model: Any, settings: Any = None, **fields: Any) -> Any:
        settings = ModelSettings(**limits, **(settings or {}))
        return Agent("a", instructions="Be brief.", model=model, model_settings=settings, **fields)

    def streams(model: Any) -> None:
        async def read() -> str:
            run = Runner.run_streamed(agent(model), SHOWN_ITEMS)
            events = [e.data async for e in run.stream_events() if e.type == "raw_response_event"]
            return "".join(e.delta for e in events if e.type == "response.output_text.delta")

        said(wait_for(read()))

    def calls(model: Any) -> None:
        counted: list[bool] = []

        @agents.function_tool
        def count_shapes(any_left: bool) -> str:  # bounded: so small a model ends no text
            """Counts shapes."""
            counted.append(any_left)
            return "three"

        counting = agent(model, {"tool_choice": "required"}, tools=[count_shapes])
        said(wait_for(Runner.run(counting, QUESTION)).final_output)
        assert counted

    def whole() -> None:
        said(wait_for(Runner.run(agent(chat), QUESTION)).final_output)

    def picture() -> None:
        said(wait_for(Runner.run(agent(chat), SHOWN_ITEMS)).final_output)

    def stream() -> None:
        streams(chat)

    def parse() -> None:
        told = wait_for(Runner.run(agent(chat, output_type=Shape), SHOWN_ITEMS))
        assert isinstance(told.final_output, Shape)

    def tools() -> None:
        calls(chat)

    def responses() -> None:
        first = wait_for(Runner.run(agent(newer), SHOWN_ITEMS))
        said(first.final_output)
        more: Any = {"previous_response_id": first.last_response_id}
        said(wait_for(Runner.run(agent(newer), QUESTION, **more)).final_output)
        streams(newer)
        calls(newer)
        told = wait_for(Runner.run(agent(newer, output_type=Shape), SHOWN_ITEMS))
        assert isinstance(told.final_output, Shape)

    return cells(whole, picture, stream, parse, tools, responses)


def llama_index() -> Cells:
    from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai import OpenAIResponses
    from llama_index.llms.openai_like import OpenAILike

    where: dict[str, Any] = {"api_base": V1, "api_key": KEY, "temperature": 0}
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 64, **where}
    chat = OpenAILike(is_chat_model=True, is_function_calling_model=True, **ask)
    text = OpenAILike(**ask)
    shown = [ChatMessage(role="user", blocks=[ImageBlock(url=URI), TextBlock(text=QUESTION)])]

    def whole() -> None:
        said(chat.complete(QUESTION).text)
        said(text.complete("There are three shapes:").text)  # /v1/completions

    def picture() -> None:
        said(chat.chat(shown).message.content)

    def stream() -> None:
        said(list(chat.stream_complete(QUESTION))[-1].text)

    def tools() -> None:
        def count_shapes(flag: bool) -> str:
            """Counts shapes."""
            return str(flag)

        tool = FunctionTool.from_defaults(fn=count_shapes)
        told = chat.chat_with_tools([tool], QUESTION, tool_required=True)
        (call,) = chat.get_tool_calls_from_response(told)
        assert set(call.tool_kwargs) == {"flag"}

    def responses() -> None:
        # It knows the sizes of OpenAI's models only; here the name changes nothing.
        newer = OpenAIResponses(model="gpt-4o", max_output_tokens=64, **where)
        said(newer.chat(shown).message.content)
        said("".join(piece.delta or "" for piece in newer.stream_complete(QUESTION)))

    return cells(whole, picture, stream, tools, responses)


CLIENTS = (
    *(openai_python, langchain, litellm, instructor, pydantic_ai, openai_agents),
    llama_index,
)
