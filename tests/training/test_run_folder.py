"""The files of a real run, the times and hardware in them, and the exit code of a stopped process."""

import re
import signal
import time
from pathlib import Path

import pytest
import torch

from digitlab.engine import fused_calls
from digitlab.results.checkpoint import read_checkpoint, write_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import classifier


def test_the_files_are_those_of_the_contract(run):
    finished = run("test=best")
    names = {str(path.relative_to(finished.folder.path)) for path in finished.folder.path.rglob("*") if path.is_file()}
    events = {name for name in names if "tfevents" in name}
    assert names - events == {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "metrics.csv", "result.json",
        "model.txt", "confusion_matrix.csv", "test_predictions.npz",
    }  # fmt: skip
    assert {name.rpartition("/")[0] for name in events} == {"", "val"}


_SLOW_SECONDS = 6.0  # much longer than the training part of an epoch


def _require_fast_epochs(finished):
    for row in read_checkpoint(finished.folder.last)["rows"]:
        assert 0 < row["train_seconds"] < _SLOW_SECONDS / 2
        assert row["images_per_second"] > 1000 / (_SLOW_SECONDS / 2)
    assert finished.result["train_seconds"] < _SLOW_SECONDS / 2
    assert finished.result["images_per_second"] > 1000 / (_SLOW_SECONDS / 2)


@pytest.mark.extra
def test_the_speed_of_a_run_leaves_validation_out(run, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("DIGITLAB_ALLOW", "run_callbacks")
    slow = f"+callbacks.slow={{_target_: run_callbacks.SlowValidation, seconds: {_SLOW_SECONDS}}}"
    _require_fast_epochs(run(slow, "trainer.max_epochs=1", "trainer.val_every_steps=8"))


@pytest.mark.extra
def test_the_speed_of_a_run_leaves_compiling_out(run, uncompiled, monkeypatch):
    make = fused_calls.compile_or_load

    def compile_slowly(*arguments, **named):
        time.sleep(_SLOW_SECONDS)
        return make(*arguments, **named)

    monkeypatch.setattr(fused_calls, "compile_or_load", compile_slowly)
    _require_fast_epochs(run("compile=true", "trainer.max_epochs=1"))
    assert uncompiled, "the run made no compiled call"


def test_the_hardware_names_the_instructions_and_the_threads_of_the_updates(run, monkeypatch):
    monkeypatch.setattr(classifier, "worthwhile_threads", lambda flops: 3)
    hardware = run("trainer.max_epochs=1").result["hardware"]
    assert hardware["threads"] == 3 != torch.get_num_threads()
    assert hardware["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_a_run_that_continues_with_other_instructions_says_so(run, caplog):
    path = run("trainer.max_epochs=1", name="run").folder.last
    run("trainer.max_epochs=2", name="run", resume=True)
    assert not [line for line in caplog.messages if "instructions" in line]
    write_checkpoint(path, read_checkpoint(path) | {"cpu_capability": "OTHER"})
    run("trainer.max_epochs=3", name="run", resume=True)
    current = torch.backends.cpu.get_cpu_capability()
    expected = f"this run was trained with OTHER instructions, now with {current}: last bits can differ"
    assert [line for line in caplog.messages if "instructions" in line] == [expected]


def test_a_stopped_process_saves_its_run_and_exits_with_143(train_py_started, tmp_path):
    folder = RunFolder(tmp_path / "run")
    forever = (
        "trainer.max_epochs=1000000",
        "early_stopping=null",
        "data.train_size=1000",
        "trainer.progress_bar=false",
    )
    process = train_py_started("trainer=cpu", *forever, f"hydra.run.dir={folder.path}", cwd=tmp_path)
    while not folder.last.exists():
        assert process.running(), process.wait()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    ended = process.wait()
    assert ended.code == 143
    assert re.fullmatch(
        r"stopped by SIGTERM at epoch \d+, step \d of 8: saved; to continue: .* resume=\S+\n", ended.stderr
    )
    assert folder.read_result()["status"] == "stopped"
    assert folder.last.exists()


def test_the_summary_does_not_depend_on_weight_averaging(run):
    plain, averaged = (run(*settings).folder.summary.read_text("utf-8") for settings in ((), ("ema.decay=0.9",)))
    assert plain == averaged
