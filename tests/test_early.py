"""The script that runs before Gradio's own: in documents alone, with their size put right."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from qwen_vl.ui.early import with_script

PAGE = "<html><head><title>é</title></head></html>"
BODIES = {
    "/": lambda: HTMLResponse(PAGE),
    "/pieces": lambda: StreamingResponse([PAGE[:9], PAGE[9:]], media_type="text/html"),
    "/data": lambda: JSONResponse({"page": PAGE}),
}


async def app(scope, receive, send):
    def answer(request) -> Response:
        return BODIES[request.url.path]()

    inner = Starlette(routes=[Route(path, answer) for path in BODIES])
    await inner(scope, receive, with_script(send, "first()"))


def test_the_script_comes_first_in_documents():
    for path in ("/", "/pieces"):
        answer = TestClient(app).get(path)
        assert answer.text.startswith("<html><head><script>first()</script><title>é")
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_other_answers_pass_as_they_are():
    assert TestClient(app).get("/data").json() == {"page": PAGE}
