"""Clients that speak something else than the OpenAI API."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from asked import BASE, PICTURE, QUESTION, ROOT, URI, Cells, cells, said


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

    return cells(whole, picture, stream)


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

    return cells(whole, picture)


CLIENTS = (gradio_client, mcp)
