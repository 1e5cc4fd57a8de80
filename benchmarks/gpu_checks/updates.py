"""Correctness of single runs' updates: captured, compiled and both against eager ones, and CUDA against the CPU."""

import os
import subprocess
from functools import cache, partial

import torch
from torch import Tensor

from digitlab.core.errors import RunError
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.training.classifier import Classifier
from gpu_checks.registry import Context, Group, Measured, replaced, require, within
from gpu_checks.runs import (
    command,
    counted_replays,
    difference,
    overrides_for,
    run,
    start_command,
    warnings_of,
    weights,
    without_waiting,
)

GROUP = Group()

_EXACT, _ROUGH = 1e-8, 2e-2
# The trainings to compare, and how far apart their weights may be: Muon and bf16 round every product to 8 bits.
_CASES: dict[str, tuple[float, list[str]]] = {
    "mlp_sgd": (_EXACT, ["model=mlp", "model.hidden=[64,64]", "optimizer=sgd", "optimizer.lr=0.1"]),
    "dropout_adam": (_EXACT, ["model=mlp_dropout", "model.hidden=[64]"]),
    "batch_norm": (_EXACT, ["model=mlp", "model.batch_norm=true", "optimizer=sgd", "optimizer.momentum=0.9"]),
    "mse_rmsprop": (_EXACT, ["model=mlp", "model.hidden=[30]", "loss=mse", "optimizer=rmsprop"]),
    "adagrad": (_EXACT, ["model=linear", "optimizer=adagrad"]),
    "ema_clip": (_EXACT, ["model=mlp", "ema.decay=0.99", "trainer.gradient_clip_norm=1", "scheduler=cosine"]),
    "lenet": (_EXACT, ["model=lenet"]),
    "lenet_no_dropout": (_EXACT, ["model=lenet", "model.dropout=0"]),
    "cnn": (_EXACT, ["model=cnn", "model.width=4", "model.dropout=0", "optimizer=adamw"]),
    "muon": (_ROUGH, ["model=fast_cnn", "model.widths=[8,16]", "optimizer=muon", "scheduler=linear"]),
    "bf16": (_ROUGH, ["model=lenet", "trainer.precision=bf16"]),
    # In float32 the rule has fused kernels.
    "fused_sgd": (_ROUGH, ["model=mlp", "optimizer=sgd", "optimizer.momentum=0.9", "trainer.precision=32-true"]),
    "fused_adam": (_ROUGH, ["model=mlp", "optimizer.weight_decay=0.01", "trainer.precision=32-true"]),
}
_QUICK_CASES = ("dropout_adam",)
# Dropout draws other masks on another device.
_SAME_ON_CPU = ("mlp_sgd", "batch_norm", "mse_rmsprop", "adagrad", "ema_clip", "lenet_no_dropout", "cnn")


def _precise(case: str) -> list[str]:
    overrides = _CASES[case][1]
    chosen = any(override.startswith("trainer.precision=") for override in overrides)
    return overrides if chosen else [*overrides, "trainer.precision=64"]


@cache
def _eager(context: Context, case: str) -> dict[str, Tensor]:
    return weights(run(context, f"{case}-eager", *_precise(case), "trainer.cuda_graphs=false"))


@cache
def _libraries(context: Context) -> list["subprocess.Popen[bytes]"]:
    """Processes that compile the libraries of all cases at the same time: one after the other takes too long.

    A check that needs a library waits for the process that compiles it, because that process holds its lock.
    """
    made = []
    for case in _CASES:
        given = overrides_for(context, [*_precise(case), "trainer.max_epochs=1", "trainer.cuda_graphs=false"])
        made.append(start_command(*given, "compile=true", f"hydra.run.dir={context.folder}/library-{case}"))
    return made


def _compare(context: Context, *, case: str, captured: bool, compiled: bool) -> Measured:
    if compiled or case not in _QUICK_CASES:
        context.require_time()
    name = f"{case}-{'captured' if captured else ''}{'compiled' if compiled else ''}"
    overrides = [*_precise(case), f"trainer.cuda_graphs={str(captured).lower()}", f"compile={str(compiled).lower()}"]
    with counted_replays(context) as replays, warnings_of("digitlab") as messages:
        found = weights(run(context, name, *overrides))
    # Otherwise the run may have trained eagerly after all.
    require(not messages, f"there are warnings: {messages}")
    if captured:
        require(len(replays) > 0, "no graph was replayed")
    apart = difference(found, _eager(context, case))
    within(apart, _CASES[case][0], "the weights differ from those of eager updates")
    return {"difference": apart, "replays": len(replays)}


@GROUP.check("processes that compile the libraries of the checks below have started")
def compiling(context: Context) -> Measured:
    context.require_time()
    return {"processes": len(_libraries(context)), "cores": os.cpu_count()}


for _case in _CASES:
    GROUP.add(f"captured equals eager: {_case}", partial(_compare, case=_case, captured=True, compiled=False))


def _against_cpu(context: Context, *, case: str) -> Measured:
    context.require_cuda()
    cpu = weights(run(context, f"{case}-cpu", *_precise(case), device=torch.device("cpu")))
    apart = difference(_eager(context, case), cpu)
    within(apart, 1e-6, "the weights differ from those of the CPU")
    return {"difference": apart}


for _case in _SAME_ON_CPU:
    GROUP.add(f"CUDA equals the CPU: {_case}", partial(_against_cpu, case=_case))


def _no_waits(context: Context, *, captured: bool) -> Measured:
    """Chunks and evaluations must not read from the device; only the first call of each may, while it sets up."""
    calls: dict[str, int] = {}
    targets = without_waiting(calls, (ChunkRunner, "_run_chunk"), (Classifier, "_evaluate"))
    with replaced(*targets), counted_replays(context):
        run(
            context, f"no-waits-{captured}", "model=mlp_dropout", "trainer.chunk_length=8", "data.train_size=512",
            f"trainer.cuda_graphs={str(captured).lower()}", "augment=[shift,flip]",
        )  # fmt: skip
    require(len(calls) == len(targets) and min(calls.values()) > 1, f"too few calls to judge: {calls}")
    return dict(calls)


GROUP.add("no waits for the device inside a chunk: eager", partial(_no_waits, captured=False))
GROUP.add("no waits for the device inside a chunk: captured", partial(_no_waits, captured=True))


@GROUP.check("a diverging run reports the same step with and without graphs")
def diverging(context: Context) -> Measured:
    messages = []
    for captured in (False, True):
        with counted_replays(context):
            try:
                run(
                    context, f"diverging-{captured}", "model=mlp", "optimizer=sgd", "optimizer.lr=1e30",
                    f"trainer.cuda_graphs={str(captured).lower()}",
                )  # fmt: skip
            except RunError as error:
                messages.append(str(error))
    require(len(messages) == 2 and messages[0] == messages[1], f"the messages differ: {messages}")
    return {"message": messages[0]}


# The libraries need the longest, so what uses them comes last.
for _case in _CASES:
    GROUP.add(f"compiled equals eager: {_case}", partial(_compare, case=_case, captured=False, compiled=True))
    GROUP.add(
        f"captured and compiled equals eager: {_case}", partial(_compare, case=_case, captured=True, compiled=True)
    )


@GROUP.check("a second process loads a compiled library in under 5 s")
def second_process_loads(context: Context) -> Measured:
    context.require_time()
    arguments = overrides_for(context, ["model=mlp", "compile=true", "trainer.cuda_graphs=false"])
    seconds = []
    for attempt in range(2):
        ended = command(*arguments, f"hydra.run.dir={context.folder}/library-{attempt}", before=_TIMED)
        require(ended.returncode == 0, ended.stderr[-500:])
        lines = [line for line in ended.stdout.splitlines() if line.startswith("SECONDS")]
        require(bool(lines), f"nothing was compiled: {ended.stderr[-500:]}")
        seconds.append(max(float(line.split()[1]) for line in lines))
    within(seconds[1], 5.0, "seconds to load the library")
    return {"first_seconds": seconds[0], "second_seconds": seconds[1]}


# Prints how long each library takes, wherever the function that compiles or loads it is called.
_TIMED = """
import time
import digitlab.training
import digitlab.engine.aot_cache as cache
make = cache.compile_or_load
def timed(*arguments, **named):
    started_at = time.perf_counter()
    made = make(*arguments, **named)
    print("SECONDS", time.perf_counter() - started_at, flush=True)
    return made
for module in list(sys.modules.values()):
    if getattr(module, "compile_or_load", None) is make:
        module.compile_or_load = timed
"""
