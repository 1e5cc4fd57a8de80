"""``compile=true`` trains like the eager step. Most tests run the function that is compiled without compiling it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digitlab.core.abilities import ABILITIES
from digitlab.core.errors import RunError
from digitlab.engine import aot_cache as compiling
from digitlab.engine import fused_execution
from digitlab.engine.aot_cache import cache_folder, steps_per_execution

COMPILER = shutil.which("g++") or shutil.which("clang++")
FLOAT64 = ("trainer.precision=64", "data.train_size=420", "data.batch_size=20", "trainer.max_epochs=3")
RUNS = (
    "model=linear optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true optimizer.weight_decay=1e-3",
    "optimizer=adam scheduler=cosine trainer.val_every_steps=13 loss.class_weights={3:5} loss.label_smoothing=0.1",
    "model=mlp_dropout optimizer=adamw optimizer.weight_decay=0.01 scheduler=one_cycle ema.decay=0.99",
    "model=lenet optimizer=rmsprop loss=mse augment=shift data.train_size=180",
    "model=lenet model.dropout=0 optimizer=sgd data.train_size=180",
    "model=cnn optimizer=adagrad scheduler=steps trainer.gradient_clip_norm=0.5 augment=mixup data.train_size=180",
    "optimizer=muon optimizer.weight_decay=0.1 optimizer.sgd_weight_decay=0.01 optimizer.bias_lr=0.3 scheduler=cosine",
    "model=fast_cnn model.widths=[4,8] optimizer=muon optimizer.normalize_filters=true ema.decay=0.9 "
    "data.train_size=180",
)


def largest_difference(one, other):
    """The largest difference between the weights of two runs, relative to the largest weight of each tensor."""
    weights, others = (each.checkpoint()["state_dict"] for each in (one, other))
    return max(
        float((weights[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-300))
        for name, tensor in others.items()
        if tensor.is_floating_point()
    )


@pytest.mark.sample(8)
@pytest.mark.parametrize("overrides", [pytest.param(RUNS[0], marks=pytest.mark.numerics), *RUNS[1:]])
def test_compiled_updates_equal_eager_ones(run, uncompiled, overrides):
    overrides = [*FLOAT64, *overrides.split()]
    eager, whole = run(*overrides), run(*overrides, "compile=true")
    assert uncompiled
    assert whole.checkpoint().keys() == eager.checkpoint().keys()
    assert largest_difference(whole, eager) <= 1e-8
    losses = [[float(row["train/loss"]) for row in each.rows()] for each in (whole, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)


def test_a_resumed_run_makes_the_same_compiled_calls(run, uncompiled):
    overrides = ("compile=true", "data.train_size=420", "data.batch_size=20", "trainer.chunk_length=16")
    run(*overrides)
    # 21 mini-batches an epoch: 16 in whole calls, and the rest.
    assert uncompiled == [8] * 4
    uncompiled.clear()
    run(*overrides, "trainer.max_steps=11", name="stopped")
    run(*overrides, name="stopped", resume=True)
    assert uncompiled == [8] + [8] * 2


def test_a_run_that_diverges_within_a_call_stops_at_the_faulty_step(run, uncompiled):
    def error(*overrides):
        with pytest.raises(RunError, match="training stopped") as raised:
            run("optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=20", *overrides)
        return str(raised.value)

    assert error("compile=true") == error()
    assert uncompiled


@pytest.mark.sample(2)
@pytest.mark.parametrize("flags", [("compile=false", "compile=true"), ("compile=true", "compile=false")])
def test_eager_and_compiled_runs_can_resume_each_other(run, uncompiled, flags):
    overrides = (*FLOAT64, "optimizer=muon", "trainer.max_epochs=2")
    run(*overrides, "trainer.max_epochs=1", flags[0], name="parts")
    assert largest_difference(run(*overrides, flags[1], name="parts", resume=True), run(*overrides)) <= 1e-8
    assert uncompiled


def test_a_custom_optimizer_is_not_compiled(run, uncompiled, caplog, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("DIGITLAB_ALLOW", "pitfalls")
    with caplog.at_level(logging.WARNING):
        run("optimizer=sgd", "optimizer._target_=pitfalls.OwnSGD", "compile=true", "trainer.max_epochs=1")
    assert not uncompiled
    warnings = [record.message for record in caplog.records]
    assert warnings == ["compile: OwnSGD has no compiled form; training without"]


def test_a_network_with_forward_hooks_is_not_compiled(run, uncompiled, caplog):
    with caplog.at_level(logging.WARNING):
        run("compile=true", "figures.log_batches=true", "data.batch_size=20", "data.train_size=420")
    assert not uncompiled
    assert caplog.text.count("forward hooks watch the layers; training without") == 1


@pytest.mark.extra
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_library_is_compiled_once_and_kept_for_later_runs(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # In seconds: a library of eight takes its compiler half a minute.
    monkeypatch.setattr(compiling, "_STEPS_OF_SMALL_NETWORKS", 2)
    overrides = (*FLOAT64, "data.train_size=200", "trainer.max_epochs=1", "model=linear", "optimizer=sgd")
    with caplog.at_level(logging.INFO):
        first = run("compile=true", *overrides, "optimizer.weight_decay=1e-3")
        again = run("compile=true", *overrides, "optimizer.weight_decay=1e-1")
    assert caplog.text.count("compiled 2 updates in") == 1
    assert len(list(cache_folder().glob("*.pt2"))) == 1
    eager = run(*overrides, "optimizer.weight_decay=1e-1")
    assert largest_difference(again, eager) <= 1e-8 < largest_difference(first, eager)


@pytest.mark.parametrize("place", ["unwritable", "nameless"])
def test_without_a_usable_cache_folder_a_temporary_one_is_used(tmp_path, monkeypatch, caplog, place):
    if place == "unwritable":
        # A file where the folder should be: no user can make it, not even root.
        (tmp_path / "cache").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    monkeypatch.setattr(compiling, "_temporary_folder", None)
    folder = compiling._writable_cache_folder()
    (folder / "library").write_text("")
    assert compiling._writable_cache_folder() == folder
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    compiling._temporary_folder.cleanup()


def test_libraries_differ_by_the_precision_of_matrix_products():
    def name():
        example = torch.ones(2, 2)
        return compiling._fingerprint(lambda a: (a @ a,), [example], [False], 1)

    before, first = torch.get_float32_matmul_precision(), name()
    torch.set_float32_matmul_precision("medium" if before != "medium" else "high")
    try:
        assert name() != first
    finally:
        torch.set_float32_matmul_precision(before)
    assert name() == first


@pytest.mark.parametrize(
    ("place", "name", "value"), [("cuda", "get_device_capability", (8, 0)), ("version", "cuda", "1")]
)
def test_libraries_differ_by_the_type_of_gpu_and_the_version_of_cuda(monkeypatch, place, name, value):
    # A cache may be shared by machines with different GPUs.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = {torch.device("cuda", 0)}
    before = compiling._machine_facts(gpu)
    assert compiling._machine_facts(gpu) == before
    monkeypatch.setattr(getattr(torch, place), name, value if place == "version" else lambda device: value)
    assert compiling._machine_facts(gpu) != before


def test_a_function_is_traced_without_a_thread_for_gradients():
    # A GPU has a thread of its own for them, in which nothing is recorded.
    seen = []

    def function(a):
        seen.append(torch._C._is_multithreading_enabled())
        return (a + 1,)

    compiling._traced(function, [torch.ones(2)], [False])
    assert seen == [False]
    assert torch._C._is_multithreading_enabled()


def test_a_device_without_float64_trains_eagerly(run, uncompiled, monkeypatch, caplog):
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], float64=False))
    with caplog.at_level(logging.WARNING):
        run("compile=true", "model=linear", "data.batch_size=20", "data.train_size=200", "trainer.max_epochs=1")
    assert not uncompiled
    assert caplog.text.count("training without") == 1


def test_a_gpu_makes_several_updates_of_larger_networks_in_a_call():
    counts = [
        [steps_per_execution(flops, torch.device(kind)) for flops in (1e6, 1e9, 1e11)] for kind in ("cpu", "cuda")
    ]
    assert counts == [[8, 1, 1], [8, 8, 1]]


@pytest.mark.extra
def test_without_a_compiler_a_run_trains_eagerly(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(compiling, "_STEPS_OF_SMALL_NETWORKS", 1)
    overrides = ("data.train_size=200", "data.batch_size=20", "trainer.max_epochs=1", "model=linear")
    with caplog.at_level(logging.WARNING):
        run("compile=true", *overrides)
    assert caplog.text.count("training without") == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(("saved_seconds", "made"), [(0.01, False), (1.0, False), (2.0, True)])
def test_auto_compiles_if_that_saves_time(run, uncompiled, caplog, monkeypatch, saved_seconds, made):
    # 42 updates; for a minute that they save a library would be used that an earlier run has left.
    monkeypatch.setattr(fused_execution, "_SAVED_SECONDS_ALONE", saved_seconds)
    run("compile=auto", "data.batch_size=20", "data.train_size=420", "model=linear")
    assert bool(uncompiled) == made
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_does_not_compile_large_networks(run, uncompiled, monkeypatch):
    monkeypatch.setattr(fused_execution, "_SAVED_SECONDS_ALONE", 1000.0)
    run("compile=auto", "model=cnn", "trainer.max_steps=2")
    assert not uncompiled
