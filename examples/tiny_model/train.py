"""Train qwen3-vl-tiny-demo from scratch: read first, then talk, then recall. Resumable.

    python examples/tiny_model/train.py --stage read --minutes 40
    python examples/tiny_model/train.py --stage talk --minutes 60
    python examples/tiny_model/train.py --stage recall --minutes 60

A stage goes on where it stopped when its command is run again, and starts from what the last one
reached. To go on from the exported model alone, without checkpoints: `--start-from model`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from read_stage import train_reading
from recall_stage import train_recalling
from shards import Shelf
from talk_stage import train_talking
from trainee import Trainee

HERE = Path(__file__).parent
STAGES = {"read": train_reading, "recall": train_recalling, "talk": train_talking}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=tuple(STAGES), required=True)
    parser.add_argument("--minutes", type=float, default=60, help="training time of this stage")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints lie here")
    parser.add_argument("--out", type=Path, default=HERE / "model", help="the exported model")
    parser.add_argument("--start-from", type=Path, help="an exported model to begin with")
    parser.add_argument(
        "--no-ease",
        action="store_true",
        help="begin at full difficulty: it reads and talks already",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shards", type=Path, help="pictures that draw.py has drawn ahead")
    args = parser.parse_args()
    if args.device == "cuda" and (args.stage != "talk" or not args.no_ease):
        parser.error("a GPU takes --stage talk --no-ease: it sees pictures as fast as it recalls")
    if args.shards and args.stage == "recall":
        parser.error("recall remembers pictures of its own: --shards is for read and talk")
    torch.manual_seed(0)
    # Before the workers fork: threads that already run would not survive it.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shelf = Shelf(args.shards) if args.shards else None
    trainee = Trainee(
        args.stage, args.work, args.out, args.start_from, not args.no_ease, args.device, shelf
    )
    STAGES[args.stage](trainee, args.minutes, args.lr)


if __name__ == "__main__":
    main()
