"""What is set and copied for a CUDA device, as far as that shows without one."""

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
def test_products_on_cuda_are_rounded_unless_that_is_refused_and_what_comes_after_is_as_before(
    precision: Literal[32, "32-true", "bf16"], expected: tuple[str, bool]
) -> None:
    before = _products()
    with float32_products(CUDA, precision):
        assert _products() == expected
    assert _products() == before


def test_products_on_a_processor_are_left_alone() -> None:
    before = _products()
    with float32_products(CPU, 32):
        assert _products() == before


def test_numbers_come_to_a_device_as_they_are() -> None:
    assert on_device([0.1, 1e-300], CPU).tolist() == [0.1, 1e-300]
    assert on_device(0.3, CPU).dtype == torch.float64


def test_losses_are_read_together_where_each_would_be_waited_for() -> None:
    assert reads_at_once(CPU)
    assert not reads_at_once(CUDA)
    assert as_numbers([torch.tensor(1.5), torch.tensor(2.5)]) == as_numbers([1.5, 2.5]) == [1.5, 2.5]
    assert as_numbers([]) == []
