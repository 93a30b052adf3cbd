"""`python examples/ray_serve.py --replicas 2 --model bundled` is `app.py --engine ray ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
__import__("app").main(["--engine", "ray", *sys.argv[1:]])
