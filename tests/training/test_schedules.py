"""Schedules compared with PyTorch's schedulers, and settings that they refuse."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler

from digitlab.optim.schedules import Constant, Cosine, Linear, OneCycle, Schedule, Steps

STEPS_PER_EPOCH, EPOCHS, WARMUP_EPOCHS = 7, 10, 2
TOTAL_STEPS, WARMUP_STEPS = STEPS_PER_EPOCH * EPOCHS, STEPS_PER_EPOCH * WARMUP_EPOCHS

SCHEDULES = [
    (Constant, {}),
    (Steps, {"milestones_epochs": [3, 5.5, 8], "gamma": 0.3}),
    (Linear, {"final_factor": 0.05}),
    (Cosine, {"final_factor": 0.05}),
    (OneCycle, {"initial_factor": 0.1, "final_factor": 0.001, "peak_fraction": 0.4}),
]
each_schedule = pytest.mark.parametrize(("schedule", "options"), SCHEDULES, ids=[c.__name__ for c, _ in SCHEDULES])


def factors(schedule: Schedule, *, steps: int = TOTAL_STEPS) -> list[float]:
    size = {"steps_per_epoch": STEPS_PER_EPOCH, "total_steps": TOTAL_STEPS}
    return [schedule.factor(step, **size) for step in range(steps)]


def torch_scheduler(schedule: Schedule, optimizer: torch.optim.Optimizer, *, warmup_steps: int):
    """PyTorch's scheduler for the part after the warm-up, for a base learning rate of 1."""
    match schedule:
        case Constant():
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)
        case Steps():
            milestones = [round(epoch * STEPS_PER_EPOCH) - warmup_steps for epoch in schedule.milestones_epochs]
            return lr_scheduler.MultiStepLR(optimizer, milestones, gamma=schedule.gamma)
        case Linear():
            steps = TOTAL_STEPS - warmup_steps
            return lr_scheduler.LinearLR(optimizer, 1.0, schedule.final_factor, total_iters=steps)
        case Cosine():
            return lr_scheduler.CosineAnnealingLR(optimizer, TOTAL_STEPS - warmup_steps, eta_min=schedule.final_factor)
        case OneCycle():
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=1.0,
                total_steps=TOTAL_STEPS - warmup_steps,
                pct_start=schedule.peak_fraction,
                div_factor=1 / schedule.initial_factor,
                final_div_factor=schedule.initial_factor / schedule.final_factor,
                cycle_momentum=False,
            )


def rates(optimizer: torch.optim.Optimizer, scheduler) -> list[float]:
    rates = []
    for _ in range(TOTAL_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < TOTAL_STEPS:
            scheduler.step()
    return rates


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@each_schedule
def test_a_schedule_equals_the_torch_scheduler(schedule, options):
    ours, optimizer = schedule(**options), sgd()
    expected = rates(optimizer, torch_scheduler(ours, optimizer, warmup_steps=0))
    assert factors(ours) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@each_schedule
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning:torch")
def test_warm_up_equals_a_preceding_linear_torch_scheduler(schedule, options):
    ours, optimizer = schedule(warmup_epochs=WARMUP_EPOCHS, **options), sgd()
    after = torch_scheduler(ours, optimizer, warmup_steps=WARMUP_STEPS)
    ramp = lr_scheduler.LinearLR(optimizer, start_factor=1 / WARMUP_STEPS, total_iters=WARMUP_STEPS - 1)
    expected = rates(optimizer, lr_scheduler.SequentialLR(optimizer, [ramp, after], milestones=[WARMUP_STEPS]))
    assert factors(ours) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@each_schedule
@pytest.mark.parametrize("warmup_epochs", [0, 0.01, 0.5, 1.3, 2])
def test_factors_are_above_0_and_at_most_1(schedule, options, warmup_epochs):
    found = factors(schedule(warmup_epochs=warmup_epochs, **options))
    assert 0 < min(found) <= max(found) <= 1


@each_schedule
def test_a_schedule_is_constant_after_its_end(schedule, options):
    ours = schedule(**options)
    beyond = factors(ours, steps=3 * TOTAL_STEPS)[TOTAL_STEPS:]
    assert beyond == pytest.approx([beyond[-1]] * len(beyond), rel=1e-12)
    assert beyond[0] <= factors(ours)[-1]


@each_schedule
@pytest.mark.parametrize("warmup_epochs", [0, 1, 3])
def test_factors_are_positive_in_trainings_shorter_than_the_warm_up(schedule, options, warmup_epochs):
    ours = schedule(warmup_epochs=warmup_epochs, **options)
    for total_steps in (1, 2, STEPS_PER_EPOCH):
        for step in range(total_steps):
            assert 0 < ours.factor(step, steps_per_epoch=STEPS_PER_EPOCH, total_steps=total_steps) <= 1


def test_the_last_warm_up_step_has_the_base_rate():
    found = factors(Constant(warmup_epochs=WARMUP_EPOCHS))
    assert found[0] == pytest.approx(1 / WARMUP_STEPS)
    assert found[WARMUP_STEPS - 2] < 1
    assert found[WARMUP_STEPS - 1 :] == [1] * (TOTAL_STEPS - WARMUP_STEPS + 1)


def test_a_milestone_takes_effect_with_the_first_step_of_its_epoch():
    found = factors(Steps(milestones_epochs=[4], gamma=0.5))
    assert found == [1.0] * 4 * STEPS_PER_EPOCH + [0.5] * (EPOCHS - 4) * STEPS_PER_EPOCH


def test_one_cycle_peaks_at_its_fraction_of_the_training():
    found = factors(OneCycle(peak_fraction=0.3))
    assert found.index(max(found)) == round(0.3 * TOTAL_STEPS) - 1
    assert max(found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("schedule", "options", "key"),
    [
        (Steps, {"milestones_epochs": [5, 3]}, "milestones_epochs"),
        (Steps, {"milestones_epochs": [3, 3]}, "milestones_epochs"),
        (Steps, {"milestones_epochs": [0, 3]}, "milestones_epochs"),
        (Steps, {"milestones_epochs": ["3"]}, "milestones_epochs"),
        (Steps, {"milestones_epochs": [1, 3], "warmup_epochs": 2}, "milestones_epochs"),
        (Steps, {"milestones_epochs": [3], "gamma": 0.0}, "gamma"),
        (Steps, {}, "milestones_epochs"),
        (Cosine, {"final_factor": 1.5}, "final_factor"),
        (Cosine, {"final_factor": math.nan}, "final_factor"),
        (OneCycle, {"initial_factor": -0.1}, "initial_factor"),
        (OneCycle, {"peak_fraction": 1.1}, "peak_fraction"),
        (Constant, {"warmup_epochs": -1.0}, "warmup_epochs"),
        (Constant, {"warmup_epochs": True}, "warmup_epochs"),
        (Constant, {"gamma": 0.1}, "gamma"),
    ],
)
def test_a_bad_setting_is_refused_and_named(schedule, options, key):
    with pytest.raises(ValidationError, match=key):
        schedule(**options)
