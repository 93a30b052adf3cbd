"""`python -m qwen_vl.bench`: see `speed`."""

from qwen_vl.bench.speed import main

main()
