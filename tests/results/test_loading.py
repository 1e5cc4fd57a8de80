"""Loading a run gives the same network and split; errors are one line with the reason."""

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import digitlab
from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError, DigitlabError, RunError
from digitlab.core.logging import quiet_libraries
from digitlab.figures.run_data import predict_split
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.evaluation import evaluate
from digitlab.training.loading import load, load_classifier, load_data, open_run, require_fit


@pytest.fixture(scope="module", params=[32, "bf16", 64])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        "model=linear",
        "trainer=cpu",
        "trainer.max_steps=20",
        "trainer.val_every_steps=7",
        "optimizer.lr=0.03",
    ]
    overrides += ["data.train_size=2000", "data.val_size=1000", "trainer.progress_bar=false"]
    config = compose([*overrides, f"trainer.precision={request.param}"])
    (folder / ".hydra").mkdir()
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    train(config, folder=folder, overrides=[])
    return RunFolder(folder)


@pytest.mark.sample(3)
def test_the_model_comes_in_eval_mode_with_the_best_weights_and_its_data_on_the_cpu(run: RunFolder) -> None:
    model, data = digitlab.load(run.path)
    assert not any(module.training for module in model.modules())
    best = torch.load(run.best, weights_only=True)["state_dict"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best[name])
        assert tensor.dtype == best[name].dtype
    assert data.test_set.images.device == data.train_indices.device == torch.device("cpu")
    assert (len(data.train_indices), len(data.val_indices)) == (2000, 1000)
    assert data.split_fingerprint == run.read_result()["split_fingerprint"]
    logits = model(data.test_set.images[:5])
    assert logits.shape == (5, 10)


@pytest.mark.sample(3)
def test_figures_show_the_predictions_of_the_run(run: RunFolder) -> None:
    model, data = digitlab.load(run.path)
    _, labels, scores = predict_split(model, data, "test")
    # The counts alone hardly depend on the precision.
    nll = float(-scores.double().gather(1, labels[:, None]).log().mean())
    assert scores.dtype == model.normalise.scale.dtype
    assert nll == pytest.approx(run.read_result()["metrics"]["test/loss"], rel=1e-6)


@pytest.mark.sample(3)
def test_evaluating_again_gives_the_metrics_of_the_run(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with quiet_libraries():
        metrics = evaluate(load_classifier(run), load_data(run), accelerator="cpu")
    recorded = run.read_result()["metrics"]
    assert metrics == {name: value for name, value in recorded.items() if name.startswith("test/")}
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_another_data_set_is_read_from_the_same_root_and_must_fit(run: RunFolder) -> None:
    classifier = load_classifier(run)
    require_fit(classifier, load_data(run, "mnist"))
    with pytest.raises(ConfigError, match=r"data=mnst: .*did you mean `mnist`"):
        load_data(run, "mnst")
    data = load_data(run)
    data.source.image_shape = (1, 32, 32)  # type: ignore[misc, attr-defined]
    with pytest.raises(ConfigError, match=r"\(1, 32, 32\); the run was trained on 10 classes of images \(1, 28, 28\)"):
        require_fit(classifier, data)


def test_the_error_names_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: is no run folder"):
        load(tmp_path)
    (tmp_path / "sweep" / "0_seed=0" / ".hydra").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"its newest run is .*sweep/0_seed=0"):
        load(tmp_path / "sweep")
    with pytest.raises(ConfigError, match="nowhere: there is no such folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("harm", ["missing", "truncated", "another network", "no hyper-parameters", "a pickle"])
def test_the_error_names_an_unusable_checkpoint_and_the_reason(run: RunFolder, tmp_path: Path, harm: str) -> None:
    shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
    path = RunFolder(tmp_path).best
    content = torch.load(path, weights_only=True)
    if harm == "another network":
        content["state_dict"].popitem()
    elif harm == "no hyper-parameters":
        del content["hyper_parameters"]
    elif harm == "a pickle":
        content["hyper_parameters"] = Path("any class that is not plain")
    torch.save(content, path)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "missing":
        path.unlink()
    with pytest.raises(RunError, match=str(path)):
        load_classifier(open_run(tmp_path))


def test_a_checkpoint_may_name_only_networks_of_allowed_packages(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
    path = RunFolder(tmp_path).best
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["model"]["_target_"] = "os.system"
    torch.save(content, path)
    with pytest.raises(DigitlabError, match="DIGITLAB_ALLOW"):
        load_classifier(open_run(tmp_path))


@pytest.mark.parametrize(
    ("kept", "hint"), [("last.ckpt", "last.ckpt is there: choose the checkpoint last"), (None, "no epoch is finished")]
)
def test_a_missing_checkpoint_names_the_other_one(tmp_path: Path, kept: str | None, hint: str) -> None:
    run = RunFolder(tmp_path)
    run.last.parent.mkdir()
    if kept is not None:
        (run.last.parent / kept).touch()
    with pytest.raises(RunError, match=f"best.ckpt: there is no such checkpoint: {hint}"):
        load_classifier(run)
