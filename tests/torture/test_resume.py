"""A stopped compiled run resumes to the same bits. Compiling takes long, so only ``make torture`` tests this."""

import os
import shutil
import signal

import pytest

from digitlab.config.compose import compose
from digitlab.core.signals import Interrupted
from digitlab.data.chunks import Position
from digitlab.training import train

COMPILER = shutil.which("g++") or shutil.which("clang++")
SMALL = ("trainer.progress_bar=false", "trainer.max_epochs=2", "data.val_size=100", "test=none", "early_stopping=null",
         "ema.decay=0.9", "scheduler=cosine", "augment=[shift]")  # fmt: skip


@pytest.fixture(autouse=True)
def long(torture):
    if not torture:
        pytest.skip("make torture asks")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("model", ["mlp_dropout", "lenet"])
def test_a_stopped_compiled_run_ends_with_the_same_bits(remains, tmp_path, monkeypatch, caplog, model):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = compose(
        [*SMALL, "trainer=cpu", f"model={model}", "compile=true", "data.train_size=420", "data.batch_size=20"]
    )
    train(config, folder=tmp_path / "alone", overrides=[])
    advance = Position.advance

    def advance_and_stop(position):
        advance(position)
        if position.total_steps in (3, 20, 30):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Position, "advance", advance_and_stop)
        for _ in range(3):
            with pytest.raises(Interrupted):
                train(config, folder=tmp_path / "stopped", overrides=[], resume=True)
    train(config, folder=tmp_path / "stopped", overrides=[], resume=True)
    assert "training without" not in caplog.text
    assert remains(tmp_path / "stopped") == remains(tmp_path / "alone")
