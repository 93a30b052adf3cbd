"""Pages of mapped files are given back, and nothing that lives elsewhere is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from qwen_vl.heap import release_file_pages, share_heap, trim_heap

SIZE = 32 * 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is mapped")


def mapped_kib() -> int:
    """Of files, resident in this process."""
    return resident_kib("RssFile")


def resident_kib(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))


def test_pages_of_a_file_go_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\3" * SIZE)
    weights = torch.from_file(str(tmp_path / "weights"), size=SIZE, dtype=torch.int8)
    assert weights.sum(dtype=torch.int64) == 3 * SIZE
    before_kib = mapped_kib()
    release_file_pages(weights.data_ptr(), weights.nbytes)
    assert before_kib - mapped_kib() > 0.9 * SIZE / 1024
    assert weights.sum(dtype=torch.int64) == 3 * SIZE


@pytest.mark.parametrize("size", [100, SIZE])
def test_other_memory_stays(size: int) -> None:
    weights = torch.full((size,), 3, dtype=torch.int8)
    release_file_pages(weights.data_ptr(), weights.nbytes)
    assert weights.sum(dtype=torch.int64) == 3 * size


def test_freed_buffers_stay_until_they_are_trimmed() -> None:
    share_heap()
    trim_heap()
    before_kib = anonymous_kib()
    torch.ones(SIZE, dtype=torch.int8)
    torch.ones(3 * SIZE, dtype=torch.int8)
    assert anonymous_kib() - before_kib > 0.9 * SIZE / 1024
    trim_heap()
    assert anonymous_kib() - before_kib < 0.1 * SIZE / 1024


def anonymous_kib() -> int:
    """Of no file, resident in this process."""
    return resident_kib("RssAnon")
