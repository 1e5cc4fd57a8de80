"""Settings and copies for a CUDA device, as far as they can be tested without one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.core.abilities import ABILITIES
from digitlab.core.logging import quiet_libraries
from digitlab.engine.device import as_numbers, float32_products, on_device, reads_at_once
from digitlab.engine.dropout_masks import DropoutMasks
from digitlab.training.classifier import Classifier
from digitlab.training.evaluation import evaluate
from digitlab.training.loading import load_classifier, load_data

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


@pytest.mark.parametrize(("precision", "expected"), [("32-true", "highest"), ("32", "high")])
def test_an_evaluation_has_the_products_of_the_run(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, precision: str, expected: str
) -> None:
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], tf32=True))
    before, seen, evaluate_batch = torch.get_float32_matmul_precision(), set(), Classifier._evaluate

    def watched(classifier: Classifier, *arguments: Any) -> Any:
        seen.add(torch.get_float32_matmul_precision())
        return evaluate_batch(classifier, *arguments)

    folder = run("model=linear", f"trainer.precision={precision}", "trainer.max_steps=2").folder
    folder.write_config(compose(["model=linear", "trainer=cpu", f"trainer.precision={precision}"]), [])
    monkeypatch.setattr(Classifier, "_evaluate", watched)
    data = load_data(folder)
    data.set_limits(limit_test_batches=2)
    with quiet_libraries():
        evaluate(load_classifier(folder, "last"), data, accelerator="cpu")
    assert seen == {expected}
    assert torch.get_float32_matmul_precision() == before


def test_masks_seed_no_generator_but_that_of_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("this seeds the generators of all devices")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    masks = DropoutMasks([torch.Size([50])], seeds=[1, 2], rates=[0.5, 0.5], device=CPU, dtype=torch.float32)
    (first,), (again,) = masks.draw(3, 4), masks.draw(3, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
