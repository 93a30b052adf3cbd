"""A thin Qwen-VL inference module and the web demo around it."""

from pathlib import Path

__version__ = "0.1.0"

# Pictures, prompts and the bundled model: in this package once it is installed, else beside it.
_INSIDE = Path(__file__).resolve().parent / "examples"
EXAMPLES = _INSIDE if _INSIDE.is_dir() else _INSIDE.parents[1] / "examples"
