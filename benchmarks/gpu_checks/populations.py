"""Correctness of populations: members against runs one by one, waiting, resuming, leaving, diverging, memory."""

import warnings
from collections.abc import Sequence
from functools import partial

import digitlab
from digitlab.core.signals import Interrupted
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.engine.vmap_stack import VmapStack
from digitlab.results.folder import RunFolder
from gpu_checks.registry import Context, Group, Measured, replaced, require, within
from gpu_checks.runs import command, counted_replays, difference, overrides_for, stopping, weights, without_waiting

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


def _given(context: Context, overrides: Sequence[str]) -> list[str]:
    given = overrides_for(context, overrides)
    if any(override.startswith("early_stopping.") for override in given):
        given.remove("early_stopping=null")
    return given


def _sweep(context: Context, name: str, launcher: str, overrides: Sequence[str]) -> dict[str, RunFolder]:
    """Run a sweep in this process and return the folders of its runs by name; it goes on with an earlier one."""
    folder = context.folder / f"{name}-{launcher}"
    with warnings.catch_warnings():
        # Failed runs are a warning; the checks read the results instead.
        warnings.simplefilter("ignore", RuntimeWarning)
        digitlab.sweep(*_given(context, overrides), f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}")
    return {path.parent.name: RunFolder(path.parent) for path in folder.glob("*/result.json")}


def _against_solo(context: Context, *, case: str) -> Measured:
    if case not in _QUICK_CASES:
        context.require_time()
    limit, overrides = _CASES[case]
    if context.quick:  # two members, by the learning rate, show as much as four
        overrides = [override for override in overrides if not override.startswith("seed=")]
    with counted_replays(context) as replays:
        members = _sweep(context, case, "vectorized", [*overrides, "trainer.precision=64"])
    require(len(replays) > 0, "no graph was replayed")
    solo = _sweep(context, case, "basic", [*overrides, "trainer.precision=64", "trainer.cuda_graphs=false"])
    require(members.keys() == solo.keys() and len(solo) > 1, f"{sorted(members)} are not {sorted(solo)}")
    apart = max(difference(weights(members[name]), weights(solo[name])) for name in solo)
    within(apart, limit, "members differ from runs one by one")
    epochs = {name: (members[name].read_result()["epochs"], solo[name].read_result()["epochs"]) for name in solo}
    require(all(own == other for own, other in epochs.values()), f"members end after other epochs: {epochs}")
    return {"members": len(members), "difference": apart, "replays": len(replays)}


for _case in _CASES:
    GROUP.add(f"members equal runs one by one: {_case}", partial(_against_solo, case=_case))


def _no_waits(context: Context, *, kind: type, overrides: Sequence[str]) -> Measured:
    if context.quick and kind is VmapStack:
        context.require_time()
    calls: dict[str, int] = {}
    targets = without_waiting(calls, (StackedRunner, "run_chunk"), (kind, "evaluate"))
    with replaced(*targets), counted_replays(context):
        _sweep(
            context, f"no-waits-{kind.__name__}", "vectorized",
            [*overrides, "seed=0,1", "trainer.chunk_length=8", "data.train_size=512", "augment=[shift]"],
        )  # fmt: skip
    require(len(calls) == len(targets) and min(calls.values()) > 1, f"too few calls to judge: {calls}")
    return dict(calls)


GROUP.add(
    "no waits for the device inside a chunk: dense members",
    partial(_no_waits, kind=DenseStack, overrides=["model=mlp_dropout", "model.hidden=[32]"]),
)
GROUP.add(
    "no waits for the device inside a chunk: convolutional members",
    partial(_no_waits, kind=VmapStack, overrides=["model=cnn", "model.width=4"]),
)


@GROUP.check("the command of the README: -m seed=0,1,2 optimizer.lr=0.1,0.01")
def readme_sweep(context: Context) -> Measured:
    folder, seeds = context.folder / "readme", [0] if context.quick else [0, 1, 2]
    grid = [f"seed={','.join(map(str, seeds))}", "optimizer.lr=0.1,0.01"]
    ended = command("-m", f"hydra.sweep.dir={folder}", *_given(context, ["optimizer=sgd", *grid]))
    require(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr[-500:]}")
    finished = [RunFolder(path.parent).read_result()["status"] for path in folder.glob("*/result.json")]
    require(finished == ["finished"] * 2 * len(seeds), f"the statuses are {finished}")
    return {"runs": len(finished)}


@GROUP.check("a diverging member fails alone, with the message of its solo run")
def diverging_member(context: Context) -> Measured:
    context.require_time()
    overrides = ["model=mlp", "model.hidden=[32]", "optimizer=sgd", "optimizer.lr=0.1,1e30"]
    errors = {}
    for launcher in ("vectorized", "basic"):
        with counted_replays(context):
            runs = _sweep(context, "diverging", launcher, overrides)
        results = [run.read_result() for run in runs.values()]
        require(sorted(result["status"] for result in results) == ["failed", "finished"], f"the results are {results}")
        errors[launcher] = next(result["error"] for result in results if result["status"] == "failed")
    require(len(set(errors.values())) == 1, f"the messages differ: {errors}")
    return {"message": errors["vectorized"]}


@GROUP.check("a population that runs out of memory is halved and finishes")
def out_of_memory(context: Context) -> Measured:
    context.require_cuda()
    folder = context.folder / "no-memory"
    # The weights of 32 members need 0.4 GB, and as much again while they are stacked.
    limit = "import torch; torch.cuda.set_per_process_memory_fraction("
    limit += "7e8 / torch.cuda.get_device_properties(0).total_memory)"
    ended = command(
        "-m", f"hydra.sweep.dir={folder}",
        *_given(context, ["model=mlp", "model.hidden=[4096]", "optimizer=sgd", "seed=range(32)"]), before=limit,
    )  # fmt: skip
    require(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr[-500:]}")
    finished = [RunFolder(path.parent).read_result()["status"] for path in folder.glob("*/result.json")]
    require(finished == ["finished"] * 32, f"the statuses are {finished}")
    output = ended.stdout + ended.stderr
    require("it is halved" in output, "the population was not halved: the memory sufficed")
    return {"finished": len(finished), "halved": output.count("it is halved")}


@GROUP.check("a sweep given again after a stop ends with the weights of an undisturbed one")
def resumed_sweep(context: Context) -> Measured:
    context.require_time()
    overrides = ["model=mlp_dropout", "model.hidden=[32]", "seed=0,1", "trainer.precision=64", "trainer.chunk_length=8"]
    with counted_replays(context):
        stopped = False
        # In the second chunk of the first epoch.
        with replaced(stopping(StackedRunner, "run_chunk", at=2)):
            try:
                _sweep(context, "stopped", "vectorized", overrides)
            except Interrupted:
                stopped = True
        require(stopped, "SIGTERM did not stop the sweep")
        again = _sweep(context, "stopped", "vectorized", overrides)
        whole = _sweep(context, "undisturbed", "vectorized", overrides)
    require(again.keys() == whole.keys() and len(whole) == 2, f"{sorted(again)} are not {sorted(whole)}")
    apart = max(difference(weights(again[name]), weights(whole[name])) for name in whole)
    within(apart, 1e-8, "the weights differ")
    return {"difference": apart}
