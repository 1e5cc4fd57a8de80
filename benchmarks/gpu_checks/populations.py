"""Correctness of populations, by real sweep commands: members against runs one by one, resuming, leaving, memory."""

from collections.abc import Sequence
from functools import partial

from digitlab.results.folder import RunFolder
from digitlab.results.history import read_history
from gpu_checks.registry import Context, Group, Measured, NotRun, require, within
from gpu_checks.runs import command, difference, overrides_for, weights

GROUP = Group()

_CASES: dict[str, tuple[float, list[str]]] = {
    "dense": (1e-8, ["model=mlp", "model.hidden=[32]", "optimizer=sgd", "seed=0,1", "optimizer.lr=0.1,0.01"]),
    "dropout": (1e-8, ["model=mlp_dropout", "model.hidden=[32]", "seed=0,1", "optimizer.lr=0.001,0.01"]),
    "lenet": (1e-6, ["model=lenet", "seed=0,1"]),
    "cnn": (1e-6, ["model=cnn", "model.width=4", "seed=0,1"]),
    "leaving": (1e-8, ["model=linear", "optimizer=sgd", "optimizer.lr=0.1,100", "trainer.max_epochs=4",
                       "early_stopping.patience=1", "early_stopping.unit=epochs", "early_stopping.min_delta=0"]),
}  # fmt: skip
_QUICK_CASES = ("dense",)


def _sweep(
    context: Context, name: str, launcher: str, overrides: Sequence[str], *, expected_exit: int = 0, before: str = ""
) -> dict[str, RunFolder]:
    """Run a sweep and return its runs' folders by name."""
    folder = context.folder / f"{name}-{launcher}"
    given = overrides_for(context.device, overrides)
    if "early_stopping.patience=1" in given:
        given.remove("early_stopping=null")
    ended = command(context, "-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}", *given, before=before)
    require(ended.returncode == expected_exit, f"exit code {ended.returncode}: {ended.stderr[-500:]}")
    return {path.parent.parent.name: RunFolder(path.parent.parent) for path in folder.glob("*/checkpoints/last.ckpt")}


def _against_solo(context: Context, *, case: str) -> Measured:
    if context.quick and case not in _QUICK_CASES:
        raise NotRun("left out of a quick check")
    limit, overrides = _CASES[case]
    members = _sweep(context, case, "vectorized", [*overrides, "trainer.precision=64"])
    solo = _sweep(context, case, "basic", [*overrides, "trainer.precision=64"])
    require(members.keys() == solo.keys() and len(solo) > 1, f"{sorted(members)} are not {sorted(solo)}")
    apart = max(difference(weights(members[name]), weights(solo[name])) for name in solo)
    within(apart, limit, "members differ from runs one by one")
    return {"members": len(members), "difference": apart}


for _case in _CASES:
    GROUP.add(f"members equal runs one by one: {_case}", partial(_against_solo, case=_case))


@GROUP.check("the command of the README: -m seed=0,1,2 optimizer.lr=0.1,0.01")
def readme_sweep(context: Context) -> Measured:
    runs = _sweep(context, "readme", "vectorized", ["optimizer=sgd", "seed=0,1,2", "optimizer.lr=0.1,0.01"])
    require(len(runs) == 6, f"{len(runs)} runs instead of 6")
    return {"runs": len(runs)}


@GROUP.check("a diverging member fails alone")
def diverging_member(context: Context) -> Measured:
    if context.quick:
        raise NotRun("left out of a quick check")
    overrides = ["model=mlp", "model.hidden=[32]", "optimizer=sgd", "optimizer.lr=0.1,1e30"]
    runs = _sweep(context, "diverging", "vectorized", overrides, expected_exit=1)
    statuses = sorted(run.read_result()["status"] for run in runs.values())
    require("finished" in statuses, f"the statuses are {statuses}")
    return {"statuses": statuses}


@GROUP.check("a population that runs out of memory is halved and finishes")
def out_of_memory(context: Context) -> Measured:
    context.require_cuda()
    seeds = ",".join(map(str, range(32)))
    runs = _sweep(
        context, "no-memory", "vectorized", ["model=mlp", "model.hidden=[4096]", "optimizer=sgd", f"seed={seeds}"],
        before="import torch; torch.cuda.set_per_process_memory_fraction(0.03)",
    )  # fmt: skip
    finished = sum(run.read_result()["status"] == "finished" for run in runs.values())
    require(finished == 32, f"{finished} of 32 members finished")
    return {"finished": finished}


@GROUP.check("a sweep given again after a stop ends with the table of an undisturbed one")
def resumed_sweep(context: Context) -> Measured:
    if context.quick:
        raise NotRun("left out of a quick check")
    overrides = ["model=mlp_dropout", "model.hidden=[32]", "seed=0,1", "trainer.deterministic=true"]
    _sweep(context, "stopped", "vectorized", [*overrides, "trainer.max_epochs=3"], before=_STOP, expected_exit=143)
    again = _sweep(context, "stopped", "vectorized", [*overrides, "trainer.max_epochs=3"])
    whole = _sweep(context, "undisturbed", "vectorized", [*overrides, "trainer.max_epochs=3"])
    apart = max(difference(weights(again[name]), weights(whole[name])) for name in whole)
    require(apart == 0, f"the weights differ by {apart:.3g}")
    return {"difference": apart, "rows": [len(read_history(run)) for run in again.values()]}


# Sends SIGTERM to the process after the second mini-batch chunk.
_STOP = """
import os, signal, digitlab.engine.stacked_runner as stacked
run_chunk, calls = stacked.StackedRunner.run_chunk, []
def stopping(*arguments, **named):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return run_chunk(*arguments, **named)
stacked.StackedRunner.run_chunk = stopping
"""
