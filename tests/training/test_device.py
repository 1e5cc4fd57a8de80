"""Settings and copies for a CUDA device, as far as they can be tested without one."""

from typing import Literal

import pytest
import torch

from digitlab.engine.device import as_numbers, float32_products, on_device, reads_at_once

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def _products() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "expected"), [("32-true", ("highest", False)), (32, ("high", True)), ("bf16", ("high", True))]
)
def test_float32_products_on_cuda_use_tf32_unless_refused_and_only_inside_the_block(
    precision: Literal[32, "32-true", "bf16"], expected: tuple[str, bool]
) -> None:
    before = _products()
    with float32_products(CUDA, precision):
        assert _products() == expected
    assert _products() == before


def test_float32_products_on_the_cpu_stay_exact() -> None:
    before = _products()
    with float32_products(CPU, 32):
        assert _products() == before


def test_numbers_keep_their_precision_on_a_device() -> None:
    assert on_device([0.1, 1e-300], CPU).tolist() == [0.1, 1e-300]
    assert on_device(0.3, CPU).dtype == torch.float64


def test_losses_are_read_together_on_a_device_with_slow_reads() -> None:
    assert reads_at_once(CPU)
    assert not reads_at_once(CUDA)
    assert as_numbers([torch.tensor(1.5), torch.tensor(2.5)]) == as_numbers([1.5, 2.5]) == [1.5, 2.5]
    assert as_numbers([]) == []
