"""`transformers serve` with the bundled model: an OpenAI-compatible server that nobody here wrote.

    python tests/support/picture_server.py --port PORT

Only its processor is replaced, because Qwen3-VL's own would need torchvision for videos.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TINY_MODEL = Path(__file__).resolve().parents[2] / "examples" / "tiny_model"
sys.path.insert(0, str(TINY_MODEL))


def main() -> None:
    """Serves until it is killed."""
    from processor import PictureProcessor
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.cli.transformers import main as command_line

    def load(path: str, **_: Any) -> PictureProcessor:
        tokenizer = AutoTokenizer.from_pretrained(path)
        images = AutoImageProcessor.from_pretrained(path, backend="pil")
        return PictureProcessor(images, tokenizer, chat_template=tokenizer.chat_template)

    AutoProcessor.from_pretrained = load
    model = str(TINY_MODEL / "model")
    options = ["--device", "cpu", "--dtype", "float32", *sys.argv[1:]]
    sys.argv = ["transformers", "serve", model, *options]
    command_line()


if __name__ == "__main__":
    main()
