"""Correctness of whole runs: resuming, checkpoints across devices, memory, determinism, one process of DDP."""

import os

import torch

import digitlab
from digitlab.core.errors import DigitlabError, RunError
from digitlab.training.evaluation import evaluate
from gpu_checks.registry import Context, Group, Measured, NotRun, require, within
from gpu_checks.runs import command, counted_replays, difference, overrides_for, run, warnings_of, weights

GROUP = Group()


@GROUP.check("a run stopped and resumed equals an uninterrupted one, bit for bit")
def resumed(context: Context) -> Measured:
    common = ["model=mlp_dropout", "optimizer=adam", "trainer.deterministic=true", "augment=[shift]"]
    with counted_replays(context):
        whole = weights(run(context, "whole", *common, "trainer.max_epochs=3"))
        run(context, "parts", *common, "trainer.max_epochs=1")
        parts = weights(run(context, "parts", *common, "trainer.max_epochs=3"))
    apart = difference(parts, whole)
    require(apart == 0, f"the weights differ by {apart:.3g}")
    return {"difference": apart}


@GROUP.check("deterministic=true: two runs are equal, bit for bit")
def deterministic(context: Context) -> Measured:
    runs = [
        weights(run(context, f"deterministic-{attempt}", "model=cnn", "model.width=4", "trainer.deterministic=true"))
        for attempt in range(2)
    ]
    require(difference(*runs) == 0, "the weights differ")
    return {"difference": 0.0}


@GROUP.check("checkpoints move between CUDA and the CPU")
def across_devices(context: Context) -> Measured:
    context.require_cuda()
    losses = {}
    for name, device in (("cuda", context.device), ("cpu", torch.device("cpu"))):
        folder = run(context, f"trained-on-{name}", "model=lenet", "trainer.precision=64", device=device)
        model, data = digitlab.load(folder.path)
        losses |= {
            f"trained on {name}, evaluated on {where}": evaluate(model, data, accelerator=where)["test/loss"]
            for where in ("cpu", "cuda")
        }
        run(
            context, f"trained-on-{name}", "model=lenet", "trainer.precision=64", "trainer.max_epochs=3",
            device=torch.device("cpu") if name == "cuda" else context.device,
        )  # fmt: skip
    for name in ("cuda", "cpu"):
        pair = [losses[f"trained on {name}, evaluated on {where}"] for where in ("cpu", "cuda")]
        within(abs(pair[0] - pair[1]), 1e-6, f"test losses of the run trained on {name}")
    return dict(losses)


@GROUP.check("a network that reads from the device gives one warning and a finished run")
def host_read(context: Context) -> Measured:
    context.require_cuda()
    os.environ["DIGITLAB_ALLOW"] = "gpu_checks"
    with warnings_of("digitlab") as messages:
        run(context, "host-read", "model=mlp", "model._target_=gpu_checks.models.ReadsHost")
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
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        run(context, "no-memory", "model=mlp", "model.hidden=[30000,30000]", "data.train_size=256")
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


@GROUP.check("one process of DDP (NCCL) trains and ends")
def one_rank(context: Context) -> Measured:
    if context.quick:
        raise NotRun("left out of a quick check")
    arguments = [override for override in overrides_for(context.device, ["model=mlp"]) if "trainer=" not in override]
    ended = command(context, "trainer=ddp", "trainer.devices=1", *arguments, f"hydra.run.dir={context.folder}/ddp")
    require(ended.returncode == 0, ended.stderr[-500:])
    return {"exit_code": ended.returncode}
