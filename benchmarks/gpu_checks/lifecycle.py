"""Correctness of whole runs: resuming, checkpoints across devices, memory, determinism, one process of DDP."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

import digitlab
from digitlab.core.errors import DigitlabError, RunError
from digitlab.core.signals import Interrupted
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.training.evaluation import evaluate
from gpu_checks.registry import Context, Group, Measured, NotRun, replaced, require, within
from gpu_checks.runs import counted_replays, difference, run, stopping, warnings_of, weights

GROUP = Group()


@GROUP.check("a run stopped and resumed equals an uninterrupted one, bit for bit")
def resumed(context: Context) -> Measured:
    common = (
        "model=mlp_dropout", "optimizer=adam", "trainer.deterministic=true", "augment=[shift]",
        "trainer.chunk_length=8",
    )  # fmt: skip
    with counted_replays(context):
        whole = weights(run(context, "whole", *common))
        stopped = False
        # In the second chunk of the first epoch.
        with replaced(stopping(ChunkRunner, "_run_chunk", at=2)):
            try:
                run(context, "parts", *common)
            except Interrupted:
                stopped = True
        require(stopped, "SIGTERM did not stop the run")
        parts = weights(run(context, "parts", *common))
    apart = difference(parts, whole)
    require(apart == 0, f"the weights differ by {apart:.3g}")
    return {"difference": apart}


@GROUP.check("deterministic=true: two runs are equal, bit for bit")
def deterministic(context: Context) -> Measured:
    context.require_time()
    with counted_replays(context):
        runs = [
            weights(run(context, f"deterministic-{number}", "model=cnn", "model.width=4", "trainer.deterministic=true"))
            for number in range(2)
        ]
    require(difference(*runs) == 0, "the weights differ")
    return {"difference": 0.0}


@GROUP.check("checkpoints move between CUDA and the CPU")
def across_devices(context: Context) -> Measured:
    context.require_cuda()
    common = ("model=lenet", "trainer.precision=64")
    losses = {}
    for name, device in (("cuda", context.device), ("cpu", torch.device("cpu"))):
        folder = run(context, f"trained-on-{name}", *common, device=device)
        model, data = digitlab.load(folder.path)
        losses |= {
            f"trained on {name}, evaluated on {where}": evaluate(model, data, accelerator=where)["test/loss"]
            for where in ("cpu", "cuda")
        }
        # It continues on the other device.
        other = torch.device("cpu") if name == "cuda" else context.device
        run(context, f"trained-on-{name}", *common, "trainer.max_epochs=3", device=other)
    for name in ("cuda", "cpu"):
        pair = [losses[f"trained on {name}, evaluated on {where}"] for where in ("cpu", "cuda")]
        within(abs(pair[0] - pair[1]), 1e-6, f"test losses of the run trained on {name}")
    return dict(losses)


def _refused(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """What captures in a dry run of the check below: it fails as CUDA does."""
    work()
    raise RuntimeError("operation not permitted when stream is capturing")


@GROUP.check("a network that reads from the device gives one warning and a finished run")
def host_read(context: Context) -> Measured:
    os.environ["DIGITLAB_ALLOW"] = "gpu_checks"
    with warnings_of("digitlab") as messages, counted_replays(context, stand_in=_refused):
        # With dropout, whose generator must work again after the failed capture.
        run(context, "host-read", "model=mlp_dropout", "model._target_=gpu_checks.models.ReadsHost")
    about = [message for message in messages if "CUDA graph" in message]
    require(len(about) == 1, f"expected one warning about CUDA graphs, found {messages}")
    return {"warning": about[0]}


@GROUP.check("ten runs in one process do not grow the reserved memory")
def memory_is_released(context: Context) -> Measured:
    context.require_cuda()
    reserved = []
    for attempt in range(3 if context.quick else 10):
        run(context, f"memory-{attempt}", "model=lenet", "trainer.max_epochs=1")
        reserved.append(torch.cuda.memory_reserved())
    require(reserved[-1] <= 1.05 * reserved[1], f"reserved bytes after each run: {reserved}")
    return {"second_run_bytes": reserved[1], "last_run_bytes": reserved[-1]}


@GROUP.check("out of memory is one line that names a key to change")
def out_of_memory(context: Context) -> Measured:
    context.require_cuda()
    # The weights need 0.3 GB, and as much again for the copy to roll back to.
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 400e6
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        run(context, "no-memory", "model=mlp", "model.hidden=[8192,8192]", "optimizer=sgd")
    except RunError as error:
        message = str(error)
    except DigitlabError as error:
        raise AssertionError(f"another error: {error}") from error
    else:
        raise AssertionError("the run finished")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    require("out of memory" in message and "\n" not in message, f"the message is {message!r}")
    return {"message": message}


@GROUP.check("one process of DDP (NCCL on CUDA) trains and ends")
def one_rank(context: Context) -> Measured:
    if not torch.distributed.is_available():
        raise NotRun("this torch has no torch.distributed")
    backends = []
    init = torch.distributed.init_process_group

    def recorded(backend: str, *arguments: object, **named: object) -> None:
        backends.append(backend)
        init(backend, *arguments, **named)

    with replaced((torch.distributed, "init_process_group", recorded)):
        run(context, "ddp", "model=linear", "trainer.max_epochs=1", "trainer=ddp", "trainer.devices=1")
    require(not context.cuda or "nccl" in backends[0], f"the backend is {backends}")
    return {"backend": backends[0]}
