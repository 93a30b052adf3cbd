"""Starts the demo: settings -> engine -> page and API on one port. Wiring only."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from qwen_vl import installed, stubs

stubs.leave_out()
with installed.or_told():
    import gradio as gr
    from gradio import http_server
    from starlette.routing import BaseRoute

    from qwen_vl import api, ui
    from qwen_vl.api.guards import api_is_open, is_public
    from qwen_vl.config import Settings, for_second_model, load_settings
    from qwen_vl.engine import Engine, open_engine
    from qwen_vl.gate import Gate
    from qwen_vl.gate.server import PortTaken, Server, listen
    from qwen_vl.heap import trim_heap
    from qwen_vl.jobs import BadJobFile, Jobs, check_file
    from qwen_vl.laps import Laps
    from qwen_vl.metrics import Measured, Metrics

log = logging.getLogger("app")

LOOK_S = 0.2  # between two looks at whether the model is loaded
TRIM_S = 10.0


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings(argv)
    start_logging()
    try:
        check_file(settings.job_file)  # both before the model is loaded: either may end the program
        sockets = listen(settings.host.strip("[]"), settings.port)
    except BadJobFile as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)
    except PortTaken as error:
        sys.exit(f"app.py: {error}")
    with installed.or_told():  # an engine imports its libraries late
        engine = open_engine(settings)
    serve(settings, engine, stopped_by_signals(), sockets)


def start_logging() -> None:
    """What happens, on the standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for client in ("httpx", "httpx2"):  # each names every address that it asks
        logging.getLogger(client).setLevel(logging.WARNING)


def stopped_by_signals() -> threading.Event:
    """Set when this process is told to end (Ctrl-C, SIGTERM)."""
    stop = threading.Event()

    def told(number: int, _: object) -> None:
        stop.set()
        if number == signal.SIGINT:  # the second Ctrl-C does not wait for running answers
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    return stop


def serve(
    settings: Settings,
    engine: Engine,
    stop: threading.Event,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Runs the page and the API over `engine` until `stop` is set, then closes it.

    Running answers get `settings.shutdown_seconds` to finish. What is open is closed whatever
    fails: first the jobs, then the engine, whose last chunks end all answers, then the server.
    """
    if is_public(settings) and not settings.api_key:
        log.warning(
            "this server is public and has no --api-key: its API is %s",
            "open to everybody" if api_is_open(settings) else "off (--api on opens it)",
        )
    laps = Laps("libraries loaded")
    with ExitStack() as opened:
        sockets = sockets or listen(settings.host.strip("[]"), settings.port)
        metrics = Metrics()
        engine = Measured(engine, metrics)
        engines = [engine]
        if beside := for_second_model(settings):
            engines.append(Measured(open_engine(beside), metrics, gauges=False))
        demo = ui.build(engine, settings, beside=engines[-1])
        opened.callback(demo.close, verbose=False)
        for one in engines:
            opened.callback(one.close)
        jobs = Jobs(
            engine,
            file=settings.job_file,
            keep_s=settings.job_keep_hours * 3600,
            most=settings.max_jobs,
            shared=len(settings.api_key) > 1,
        )
        opened.callback(jobs.close)
        router = api.build_router(engine, settings, jobs, metrics, is_ending=stop.is_set)
        launch(demo, settings, router.routes, sockets)
        laps.end("page built")
        log.info("the page is up %s", laps)
        while engine.status().state == "loading" and not stop.wait(LOOK_S):
            pass
        spare_the_collector()
        while not stop.wait(TRIM_S):
            trim_heap()  # what large requests left
        log.info("stopping: running answers get %.0f seconds", settings.shutdown_seconds)
        jobs.refuse_more()
        end_s = time.monotonic() + settings.shutdown_seconds
        for one in engines:
            one.drain(max(0.0, end_s - time.monotonic()))


def launch(
    demo: gr.Blocks, settings: Settings, routes: Sequence[BaseRoute], sockets: list[socket.socket]
) -> None:
    """Starts the page and the API on `sockets`, both behind the gate."""
    gates: list[Gate] = []

    def start_server(app: Any, **_: Any) -> tuple[str, int, str, Server]:
        gates.append(Gate(app, settings))
        server = Server(gates[0], sockets)
        server.run_in_thread()
        name, port = sockets[0].getsockname()[:2]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
        name = f"[{name}]" if ":" in name else name
        return name, port, f"http://{name}:{port}/", server

    user, _, password = settings.auth.partition(":")
    options = ui.launch_options(settings)
    more = options.pop("app_kwargs", {})
    # The one seam for all of it: Gradio's own server has no limits for connections, believes
    # forwarding headers from 127.0.0.1, and puts its CORS headers outside of every middleware.
    theirs, http_server.start_server = http_server.start_server, start_server  # type: ignore
    try:
        demo.launch(
            share=settings.share,
            auth=[(user, password)] if user else None,
            root_path=settings.root_path or None,  # None leaves Gradio its own variable for it
            app_kwargs={**more, "routes": [*routes, *more.get("routes", [])]},
            prevent_thread_lock=True,
            **options,
        )
    finally:
        http_server.start_server = theirs
    if demo.share_url:
        gates[0].hosts.share(demo.share_url)


def spare_the_collector() -> None:
    """Takes what is here to stay, half a million objects, out of the garbage collector's sight.

    It runs in full once a quarter as many have piled up as there are. What a request leaves behind
    (cycles of frames and tracebacks, with the pictures in them) would wait for that a long time.
    """
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
