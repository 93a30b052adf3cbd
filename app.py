"""Starts the demo: settings -> engine -> page and API on one port. Wiring only."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qwen_vl import api, ui
from qwen_vl.config import load_settings
from qwen_vl.engine import open_engine


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    engine = open_engine(settings)
    demo = ui.build(engine, settings)
    try:
        demo.launch(
            server_name=settings.host,
            server_port=settings.port,
            share=settings.share,
            app_kwargs={"routes": api.build_router(engine, settings).routes},
            **ui.launch_options(settings),
        )
    finally:
        engine.close()


if __name__ == "__main__":
    main()
