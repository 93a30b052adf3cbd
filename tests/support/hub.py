"""A model hub on this machine: real HTTP, just enough of the Hub's API to download a model.

Source for the paths and headers: the Hub API documentation and what huggingface_hub asks for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[str, Path] = {}  # noqa: RUF012 - set by `hub` on a subclass
    claimed_bytes: int | None = None
    breaks_off = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        if path == "":
            self._answer(200, b"hub")
        elif path.startswith("api/models/"):
            name, *kind = re.split("/(?=revision/|tree/)", path.removeprefix("api/models/"))
            self._model(name, tree=kind[:1] and kind[0].startswith("tree/"))
        elif "/resolve/" in path:
            repository, _, rest = path.partition("/resolve/")
            self._file(repository, rest.split("/", 1)[1])
        else:
            self._answer(404, b"")

    def _model(self, name: str, tree: object) -> None:
        if name == "acme/gated":
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name not in self.repositories:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            files = sorted(self.repositories[name].iterdir())
            sizes = {file.name: self.claimed_bytes or file.stat().st_size for file in files}
            if tree:
                entries = [
                    {"type": "file", "path": name, "size": size, "oid": COMMIT}
                    for name, size in sizes.items()
                ]
                self._answer(200, json.dumps(entries).encode())
                return
            siblings = [
                {"rfilename": file.name, "size": sizes[file.name], "blobId": _etag(file)}
                for file in files
            ]
            info = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self._answer(200, json.dumps(info).encode())

    def _file(self, repository: str, name: str) -> None:
        file = self.repositories[repository] / name
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT}
        self._answer(200, file.read_bytes(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            breaks_off = self.breaks_off and "/resolve/" in self.path
            self.wfile.write(body[: len(body) // 2] if breaks_off else body)
            self.close_connection = breaks_off

    def log_message(self, *args: object) -> None:
        pass


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def hub(
    repositories: dict[str, Path], claimed_bytes: int | None = None, breaks_off: bool = False
) -> Iterator[str]:
    """Serves `repositories` (name -> folder) and yields the hub's address."""
    handler = type(
        "Hub",
        (_Hub,),
        {"repositories": repositories, "claimed_bytes": claimed_bytes, "breaks_off": breaks_off},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
