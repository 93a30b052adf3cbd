"""What the benchmarks' commands share: which model, and how it is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from qwen_vl.config import Settings


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model` or `--shape`, `--dtype` and `--quantize`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default="bundled", help="model id or folder (default: bundled)")
    what.add_argument(
        "--shape",
        choices=["2b", "qwen3.5-0.8b", "qwen3.5-2b"],
        help="an architecture with random weights (2b: Qwen3-VL-2B)",
    )
    parser.add_argument("--dtype", default="auto", help="as for app.py (default: auto)")
    parser.add_argument("--quantize", default="auto", help="as for app.py (default: auto)")


def settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    """Ends the command where they do not go together."""
    try:
        return Settings(
            model=args.model, dtype=args.dtype, quantize=args.quantize, max_seconds=3600
        )
    except ValueError as error:
        parser.error(str(error))


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number that is not smaller."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number
