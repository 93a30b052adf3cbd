"""Starts the demo: settings -> engine -> page and API on one port. Wiring only."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
from collections.abc import Sequence

from qwen_vl import installed

with installed.or_told():
    from qwen_vl import api, ui
    from qwen_vl.config import Settings, api_is_open, is_public, load_settings
    from qwen_vl.engine import Engine, open_engine
    from qwen_vl.metrics import Measured, Metrics
    from qwen_vl.tasks import Jobs

log = logging.getLogger("app")

LOOK_S = 0.2  # between two looks at whether the model is loaded


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings(argv)
    start_logging()
    serve(settings, open_engine(settings), stopped_by_signals())


def start_logging() -> None:
    """What happens, on the standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


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


def serve(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Runs the page and the API over `engine` until `stop` is set, then closes it.

    Running answers get `settings.shutdown_seconds` to finish.
    """
    if is_public(settings) and not settings.api_key:
        log.warning(
            "this server is public and has no --api-key: its API is %s",
            "open to everybody" if api_is_open(settings) else "off (--api on opens it)",
        )
    metrics = Metrics()
    engine = Measured(engine, metrics)
    jobs = Jobs(
        engine,
        file=settings.job_file,
        keep_s=settings.job_keep_hours * 3600,
        most=settings.max_jobs,
    )
    demo = ui.build(engine, settings)
    user, _, password = settings.auth.partition(":")
    host = settings.host.strip("[]")
    try:
        demo.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=settings.port or free_port(host),
            share=settings.share,
            auth=[(user, password)] if user else None,
            app_kwargs={"routes": api.build_router(engine, settings, jobs, metrics).routes},
            prevent_thread_lock=True,
            **ui.launch_options(settings),
        )
        while engine.status().state == "loading" and not stop.wait(LOOK_S):
            pass
        spare_the_collector()
        stop.wait()
        log.info("stopping: running answers get %.0f seconds", settings.shutdown_seconds)
        jobs.refuse_more()
        engine.drain(settings.shutdown_seconds)
    finally:
        jobs.close()
        demo.close(verbose=False)
        engine.close()


def free_port(host: str) -> int:
    """A port that nothing on this machine listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        return server.getsockname()[1]


def spare_the_collector() -> None:
    """Takes what is here to stay, half a million objects, out of the garbage collector's sight.

    It runs in full once a quarter as many have piled up as there are. What a request leaves behind
    (cycles of frames and tracebacks, with the pictures in them) would wait for that a long time.
    """
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
