"""A server that speaks as much of the OpenAI API as the benchmark against a peer needs: a script.

Takes llama.cpp's flags. As llama.cpp's, it answers `/health` with 503 while it loads. It does not
start while another process holds the file LOCK, if that is set.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOADING_S = 0.1
TOKEN_S = 0.001


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    ready = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200 if self.ready.is_set() else 503)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = sum(len(str(turn["content"]).split()) for turn in asked["messages"])
        if words > int(os.environ.get("MOST_WORDS", "100000")):
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "too long for this stand-in"}}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._tell({"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]})
        for _ in range(asked["max_tokens"]):
            time.sleep(TOKEN_S)
            self._tell({"choices": [{"delta": {"content": "word "}, "finish_reason": None}]})
        self._tell({"choices": [{"delta": {}, "finish_reason": "length"}]})
        usage = {"prompt_tokens": words, "completion_tokens": asked["max_tokens"]}
        self._tell({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _tell(self, chunk: dict[str, object]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    args, _ = parser.parse_known_args()
    if path := os.environ.get("LOCK"):
        lock = open(path, "w")  # noqa: SIM115  held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another server is there")
    threading.Timer(LOADING_S, Handler.ready.set).start()
    ThreadingHTTPServer((args.host, args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
