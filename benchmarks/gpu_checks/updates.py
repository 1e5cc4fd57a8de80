"""Correctness of single runs' updates: captured, compiled and both against eager ones, and CUDA against the CPU."""

import time
from functools import partial

import torch

from digitlab.core.errors import RunError
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.training.classifier import Classifier
from gpu_checks.registry import Context, Group, Measured, NotRun, replaced, require, within
from gpu_checks.runs import command, counted_replays, difference, overrides_for, run, weights

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
    "cnn": (_EXACT, ["model=cnn", "model.width=4", "optimizer=adamw"]),
    "muon": (_ROUGH, ["model=fast_cnn", "model.widths=[8,16]", "optimizer=muon", "scheduler=linear"]),
    "bf16": (_ROUGH, ["model=lenet", "trainer.precision=bf16"]),
}
_QUICK_CASES = ("mlp_sgd", "dropout_adam", "lenet_no_dropout")
# Dropout draws other masks on another device.
_SAME_ON_CPU = ("mlp_sgd", "batch_norm", "mse_rmsprop", "adagrad", "ema_clip", "lenet_no_dropout", "cnn")


def _precise(case: str) -> list[str]:
    overrides = _CASES[case][1]
    return overrides if case == "bf16" else [*overrides, "trainer.precision=64"]


def _eager(context: Context, case: str) -> dict[str, torch.Tensor]:
    return weights(run(context, f"{case}-eager", *_precise(case), "trainer.cuda_graphs=false"))


def _compare(context: Context, *, case: str, captured: bool, compiled: bool) -> Measured:
    if context.quick and (case not in _QUICK_CASES or compiled):
        raise NotRun("left out of a quick check")
    expected = _eager(context, case)
    name = f"{case}-{'captured' if captured else ''}{'compiled' if compiled else ''}"
    overrides = [*_precise(case), f"trainer.cuda_graphs={str(captured).lower()}", f"compile={str(compiled).lower()}"]
    with counted_replays(context) as replays:
        found = weights(run(context, name, *overrides))
    if captured:
        require(len(replays) > 0, "no graph was replayed")
    apart = difference(found, expected)
    within(apart, _CASES[case][0], "the weights differ from those of eager updates")
    return {"difference": apart, "replays": len(replays)}


for _case in _CASES:
    GROUP.add(f"captured equals eager: {_case}", partial(_compare, case=_case, captured=True, compiled=False))
for _case in _CASES:
    GROUP.add(
        f"captured and compiled equals eager: {_case}", partial(_compare, case=_case, captured=True, compiled=True)
    )
for _case in ("mlp_sgd", "lenet"):
    GROUP.add(f"compiled equals eager: {_case}", partial(_compare, case=_case, captured=False, compiled=True))


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
    context.require_cuda()
    calls: dict[str, int] = {}

    def guarded(cls: type, name: str) -> object:
        method = getattr(cls, name)

        def call(*arguments: object, **named: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            torch.cuda.set_sync_debug_mode("default" if calls[name] == 1 else "error")
            try:
                return method(*arguments, **named)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return call

    targets = [(ChunkRunner, "_run_chunk"), (Classifier, "_evaluate")]
    with replaced(*((cls, name, guarded(cls, name)) for cls, name in targets)):
        run(
            context, f"no-waits-{captured}", "model=mlp_dropout", "trainer.chunk_length=8",
            f"trainer.cuda_graphs={str(captured).lower()}", "augment=[shift,flip]",
        )  # fmt: skip
    require(all(calls.get(name, 0) > 1 for _, name in targets), f"too few calls to judge: {calls}")
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


@GROUP.check("a second process loads a compiled library in under 5 s")
def second_process_loads(context: Context) -> Measured:
    if context.quick:
        raise NotRun("left out of a quick check")
    arguments = overrides_for(context.device, ["model=mlp", "compile=true"])
    before = (
        "import time, digitlab.engine.aot_cache as cache; make = cache.compile_or_load\n"
        "def timed(*a, **k):\n    start = time.perf_counter(); made = make(*a, **k)\n"
        "    print('SECONDS', time.perf_counter() - start); return made\n"
        "import digitlab.engine.fused_calls as calls; calls.compile_or_load = timed"
    )
    seconds = []
    for attempt in range(2):
        started_at = time.perf_counter()
        ended = command(context, *arguments, f"hydra.run.dir={context.folder}/library-{attempt}", before=before)
        require(ended.returncode == 0, ended.stderr[-500:])
        lines = [line for line in ended.stdout.splitlines() if line.startswith("SECONDS")]
        require(bool(lines), f"nothing was compiled in {time.perf_counter() - started_at:.0f} s")
        seconds.append(float(lines[-1].split()[1]))
    within(seconds[1], 5.0, "seconds to load the library")
    return {"first_seconds": seconds[0], "second_seconds": seconds[1]}
