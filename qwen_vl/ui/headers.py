"""The headers of every response: what the page may load, who may embed it, what files may do.

Knows HTTP; knows nothing of requests, handlers or models.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

GRADIO = "/gradio_api/"
FILE = f"{GRADIO}file="

SELF = "default-src 'self'; base-uri 'self'; object-src 'none'; frame-src 'none'"
FILES_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
SHARE_HOST = "https://gradio.s3-us-west-2.amazonaws.com"  # share links load Gradio's script there


def page_policy(share: bool) -> str:
    """The Content-Security-Policy of the page: it loads from and sends to this server alone.

    Gradio has inline scripts and styles and makes functions of strings. With a share link its
    script comes from a server of Gradio's.
    """
    more = f" {SHARE_HOST}" if share else ""
    return (
        f"{SELF}; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:{more}; "
        f"style-src 'self' 'unsafe-inline'{more}; font-src 'self' data:{more}; "
        f"img-src 'self' data: blob:{more}; media-src 'self' data: blob:; "
        f"connect-src 'self' data: blob:{more}; worker-src 'self' blob:; form-action 'self'; "
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
    )


def with_headers(send: Send, path: str, policy: str) -> Send:
    """`send` that adds the headers to the response's start, where it has none of its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Referrer-Policy", "same-origin")
            if path.startswith(FILE):
                headers["Content-Security-Policy"] = FILES_POLICY
                kind = headers.get("content-type", "").partition(";")[0]
                if not kind.startswith(("image/", "video/")) or kind == "image/svg+xml":
                    headers["Content-Disposition"] = "attachment"
            else:
                headers.setdefault("Content-Security-Policy", policy)
        await send(message)

    return sending
