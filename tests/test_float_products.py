"""float32 is multiplied by oneDNN where that is faster, and as exactly as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from qwen_vl.engine.model import float_products
from qwen_vl.engine.model.delta_rule import chunk_rule
from qwen_vl.engine.model.float_products import LEAST_ROWS, multiplying


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """As they were, afterwards; and nothing is known of this machine yet."""
    before = way()
    float_products.is_faster.cache_clear()
    yield
    float_products.is_faster.cache_clear()
    assert way() == before


def way() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def test_trying_leaves_the_settings_as_they_were() -> None:
    before = way()
    assert float_products.is_faster() in (True, False)
    assert way() == before


def test_only_passes_over_many_rows_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_products, "is_faster", _answering(True))
    before = way()
    with multiplying(LEAST_ROWS):
        assert way() == "bf16"
        with multiplying(1):  # others' answers go on while a picture is read
            assert way() == "ieee"
        assert way() == "bf16"
    assert way() == before
    with pytest.raises(KeyError), multiplying(LEAST_ROWS):
        raise KeyError
    assert way() == before


def test_nothing_changes_where_it_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_products, "is_faster", _answering(False))
    before = way()
    with multiplying(1000):
        assert way() == before


def test_the_small_products_of_recurrent_layers_do_not_ask_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float_products, "is_faster", _answering(True))
    ways = list[str]()

    class Watching(TorchFunctionMode):
        def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None):
            if any(name in function.__name__ for name in ("matmul", "mm", "einsum")):
                ways.append(way())
            return function(*args, **(kwargs or {}))

    states = (torch.randn(1, 40, 2, 16) for _ in range(3))
    with multiplying(1000), Watching():
        chunk_rule(*states, -torch.rand(1, 40, 2), torch.rand(1, 40, 2))
    assert set(ways) == {"ieee"}


def test_products_are_as_exact_where_it_is_taken() -> None:
    x, weight = torch.randn(100, 512), torch.randn(300, 512)
    exact = x.double() @ weight.double().T
    with multiplying(len(x)):
        result = x @ weight.T
    assert (result - exact).abs().max() < 1e-3  # rounded to bfloat16: about 0.2


def test_a_cpu_that_rounds_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = torch.nn.functional.scaled_dot_product_attention

    def rounding(*inputs: torch.Tensor) -> torch.Tensor:
        """As on a CPU with AMX."""
        if way() == "bf16":
            inputs = tuple(one.bfloat16().float() for one in inputs)
        return attend(*inputs)

    clock = iter(range(1000))
    monkeypatch.setattr(float_products.time, "perf_counter", lambda: _seconds(next(clock)))
    assert float_products.is_faster()
    float_products.is_faster.cache_clear()
    monkeypatch.setattr(float_products.F, "scaled_dot_product_attention", rounding)
    assert not float_products.is_faster()


def _seconds(reading: int) -> float:
    """A clock by which every second attention takes half of the time of the one before."""
    rounds, place = divmod(reading, 4)
    return 100 * rounds + (0, 10, 20, 25)[place]


def _answering(answer: bool) -> Any:
    def is_faster() -> bool:
        return answer

    is_faster.cache_clear = lambda: None  # type: ignore[attr-defined]
    return is_faster
