"""Code in a foreign checkpoint never runs, and run folders contain no environment variables."""

import os

import pytest
import torch
from lightning.pytorch import Trainer

from digitlab.training import Classifier
from digitlab.training.checkpoint_io import AtomicCheckpointIO


class Payload:
    """Runs ``touch`` when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.fixture
def planted(run, tmp_path):
    """A checkpoint of a run that contains a command, its classifier, and the file that the command would create."""
    path, witness = tmp_path / "planted.ckpt", tmp_path / "witness"
    good = run("trainer.max_steps=1").folder.last
    torch.save(torch.load(good, weights_only=True) | {"callbacks": Payload(witness)}, path)
    torch.load(path, weights_only=False)
    assert witness.exists(), "it does run where nothing stands before it"
    witness.unlink()
    return path, Classifier.load_from_checkpoint(good), witness


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights_only", [None, False])
def test_lightning_runs_no_code_from_a_checkpoint(planted, weights_only):
    path, classifier, witness = planted
    trainer = Trainer(accelerator="cpu", logger=False, max_epochs=1, plugins=[AtomicCheckpointIO()])
    ways = [
        lambda: Classifier.load_from_checkpoint(path, weights_only=weights_only),
        lambda: Classifier.load_from_checkpoint(str(path)),
        lambda: trainer.fit(classifier, train_dataloaders=[], ckpt_path=str(path), weights_only=weights_only),
        lambda: trainer.validate(classifier, dataloaders=[], ckpt_path=str(path), weights_only=weights_only),
    ]
    for load in ways:
        with pytest.raises(Exception, match=r"(?i)weights.?only|can't be read"):
            load()
        assert not witness.exists()


def test_environment_variables_are_not_written_into_a_run_folder(run, monkeypatch):
    monkeypatch.setenv("DIGITLAB_TEST_ROOT", "/nowhere/hunter2-very-secret")
    monkeypatch.setenv("DIGITLAB_TEST_RATE", "0.01")
    # Directly, through another key, and as a hyper-parameter of TensorBoard's table.
    folder = run(
        "data.root=${oc.env:DIGITLAB_TEST_ROOT}",
        "sweep.name=${data.root}",
        "optimizer.lr='${oc.decode:${oc.env:DIGITLAB_TEST_RATE}}'",
    ).folder
    found = [path for path in folder.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert found == []
