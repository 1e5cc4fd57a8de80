"""The length of a chunk affects only the speed, and limits count mini-batches."""

import pytest

EVERYTHING = (
    "model=mlp_dropout",
    "model.hidden=[16,16]",
    "model.batch_norm=true",
    "augment=[shift,noise,mixup]",
    "optimizer=sgd",
    "optimizer.momentum=0.9",
    "optimizer.weight_decay=0.001",
    "scheduler=one_cycle",
    "trainer.gradient_clip_norm=0.5",
    "ema.decay=0.9",
)
LENGTHS = (1, 7, 32)


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(EVERYTHING, id="everything on", marks=pytest.mark.numerics),
        pytest.param(("optimizer=adam", "trainer.val_every_steps=5"), id="validation inside epochs"),
        pytest.param(("model=lenet", "trainer.max_steps=21"), id="max_steps"),
        pytest.param(("trainer.limit_train_batches=9", "scheduler=cosine"), id="limit_train_batches"),
        pytest.param(("trainer.overfit_batches=3",), id="overfit_batches"),
        pytest.param(("trainer.precision=bf16", "model.dropout=0.2"), id="bf16"),
    ],
)
def test_chunks_of_any_length_end_with_the_same_bits(run, same_bits, overrides):
    one, *others = (run(*overrides, f"trainer.chunk_length={length}") for length in LENGTHS)
    for other in others:
        same_bits(one, other)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("overrides", "steps_after_epoch"),
    [
        # 1,000 images in mini-batches of 64 are 16.
        ((), [16, 32]),
        (("trainer.limit_train_batches=5",), [5, 10]),
        (("trainer.max_steps=21",), [16, 21]),
        (("trainer.max_steps=32",), [16, 32]),
        (("trainer.max_steps=6",), [6]),
        (("trainer.overfit_batches=3",), [3, 6]),
        (("trainer.val_every_steps=5",), [16, 32]),
    ],
)
def test_limits_count_mini_batches(run, overrides, steps_after_epoch):
    finished = run(*overrides, "trainer.chunk_length=7")
    assert [int(row["step"]) for row in finished.rows()] == steps_after_epoch
    assert finished.checkpoint()["global_step"] == steps_after_epoch[-1]


@pytest.mark.parametrize("length", [1, 32])
def test_validation_runs_every_n_steps_and_after_each_epoch(run, length):
    finished = run("trainer.val_every_steps=5", f"trainer.chunk_length={length}")
    points = finished.checkpoint()["history"]
    assert [point["step"] for point in points] == [5, 10, 15, 16, 20, 25, 30, 32]
    assert [point["epoch"] for point in points] == [1] * 4 + [2] * 4
