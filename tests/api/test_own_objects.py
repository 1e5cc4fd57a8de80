"""Networks and images of the user's own in ``digitlab.train`` and ``digitlab.sweep``: runs, resuming, mistakes."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore
from torch import nn

import digitlab
from digitlab.api.own_network import own_network
from digitlab.api.own_objects import own_objects
from digitlab.config import compose, given
from digitlab.results.checkpoint import read_checkpoint

SIDE, CLASSES = 8, 3
SMALL = ("trainer=cpu", "trainer.max_epochs=2", "trainer.progress_bar=false", "optimizer.lr=0.01")


class Detached(nn.Sequential):
    """A network whose output torch can't follow back to its weights."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).detach()


class Net(nn.Module):
    """A dense network that takes the facts of its data and a setting."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, hidden: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def plain_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """120 noisy images with a bright band, whose place is the class: float32 (N, H, W) and labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    pixels = generator.random((120, SIDE, SIDE), dtype=np.float32) * 0.5
    for label in range(CLASSES):
        pixels[labels == label, 2 * label : 2 * label + 2] = 1
    return pixels, labels


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Overrides of a short run whose data sets lie in a temporary folder."""
    return (*SMALL, f"data.root={tmp_path_factory.mktemp('data')}")


@pytest.fixture(scope="module")
def run(small, images, tmp_path_factory):
    return digitlab.train(*small, "model.hidden=8", model=Net, data=images, folder=tmp_path_factory.mktemp("own") / "r")


def test_a_class_is_trained_with_its_settings(run, images):
    assert run.status == "finished"
    assert run.model().network.layers[1].out_features == 8
    assert run.metrics["test/accuracy"] > 0.8
    assert dict(run.config.model) == {
        "_target_": f"{Net.__module__}.Net",
        "hidden": 8,
        "_given_": run.config.model._given_,
    }
    assert run.evaluate()["test/accuracy"] == pytest.approx(run.metrics["test/accuracy"])
    assert run.predict(images[0][:5]).shape == (5, CLASSES)
    assert len(run.figure("confusion_matrix").axes) >= 2
    assert "Net on own" in run._repr_html_()
    assert not ConfigStore.instance().repo.keys() & {"model", "data"}


def test_the_split_has_every_image_once(run, images):
    data = run.data()
    parts = [data.train_set.images[data.train_indices], data.train_set.images[data.val_indices], data.test_set.images]
    expected = sorted(np.rint(images[0] * 255).astype(np.uint8).reshape(120, -1).tolist())
    assert sorted(torch.cat(parts).flatten(1).tolist()) == expected
    assert [len(part) for part in parts] == [86, 10, 24]
    assert data.test_set.labels.bincount().tolist() == [8, 8, 8]


@pytest.mark.extra
def test_an_object_keeps_its_weights_and_every_run_starts_from_them(small, images, tmp_path):
    network = plain_network()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    state = torch.random.get_rng_state()
    runs = [digitlab.train(*small, model=network, data=images, folder=tmp_path / name) for name in "ab"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())
    ends = [read_checkpoint(each.path / "checkpoints" / "last.ckpt")["state_dict"] for each in runs]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    slow = digitlab.train(
        *small, "optimizer.lr=1e-12", "trainer.max_steps=1", model=network, data=images, folder=tmp_path / "c"
    )
    torch.testing.assert_close(slow.model("last").network.state_dict(), before)


@pytest.mark.extra
def test_frozen_and_lazy_layers_work(small, images, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.Tanh(), nn.LazyLinear(CLASSES))
    network[1].requires_grad_(False)
    run = digitlab.train(*small, model=network, data=images, folder=tmp_path / "run")
    trained = run.model().network
    assert torch.equal(trained[1].weight, network[1].weight)
    assert trained[3].weight.shape == (CLASSES, 8)


@pytest.mark.extra
def test_a_network_of_digitlab_trains_on_own_data_sets(small, images, tmp_path):
    pixels, labels = torch.from_numpy(images[0]), torch.from_numpy(images[1])
    train = torch.utils.data.TensorDataset(pixels[:90], labels[:90])
    run = digitlab.train(
        *small, model="linear", data=train, test_data=(pixels[90:], labels[90:]), folder=tmp_path / "run"
    )
    assert torch.equal(run.data().test_set.images[:, 0], (pixels[90:] * 255).round().byte())
    assert len(run.data().train_set.images) == 90


def test_an_interrupted_run_says_how_to_resume_and_is_resumed(small, images, tmp_path, stopped_in_thread):
    folder = tmp_path / "run"
    raised = stopped_in_thread(*small, model=plain_network(), data=images, folder=folder)
    assert f"to continue: digitlab.resume({str(folder)!r}, model=...)" in str(raised[0])
    assert "can resume this run only with its network" in (folder / "train.log").read_text()
    epochs = len(digitlab.open(folder).history)
    assert digitlab.resume(folder, max_epochs=epochs + 1).status == "finished"


def test_another_process_needs_the_network_again(run, monkeypatch):
    monkeypatch.setattr(given, "_remembered", {})
    with pytest.raises(digitlab.ConfigError, match=r"pass it, as in digitlab.open\(FOLDER, model=NETWORK\)"):
        digitlab.open(run.path).model()
    for wrong, message in ((plain_network(), "pass the class"), (3, "must be a network")):
        with pytest.raises(digitlab.ConfigError, match=message):
            digitlab.open(run.path, model=wrong)
    expected = run.data().test_set.images
    classifier, data = digitlab.load(run.path, model=Net)
    assert torch.equal(data.test_set.images, expected)
    assert classifier.network.layers[1].out_features == 8


def test_an_object_with_other_layers_is_refused(small, images, tmp_path, monkeypatch):
    run = digitlab.train(*small, model=plain_network(), data=images, folder=tmp_path / "run")
    monkeypatch.setattr(given, "_remembered", {})
    with pytest.raises(digitlab.ConfigError, match="its layers or its code differ"):
        digitlab.open(run.path, model=nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES, bias=False)))
    assert digitlab.open(run.path, model=plain_network()).model() is not None


@pytest.mark.extra
def test_a_class_of_an_allowed_module_needs_nothing(small, images, tmp_path):
    """A child process loads the run by the name of its class; this process trains it without a prior import."""
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.layer = nn.Linear({SIDE * SIDE}, {CLASSES})\n"
        "    def forward(self, images):\n"
        "        return self.layer(images.flatten(1))\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from mynets import Mine
    finally:
        sys.path.remove(str(tmp_path))
    run = digitlab.train(*small, model=Mine, data=images, folder=tmp_path / "run")
    code = f"import digitlab; print(digitlab.open({str(run.path)!r}).evaluate()['test/accuracy'])"
    environment = {"PYTHONPATH": f"{tmp_path}:{digitlab.__path__[0]}/..", "DIGITLAB_ALLOW": "mynets", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) == pytest.approx(run.metrics["test/accuracy"])


@pytest.mark.long
@pytest.mark.extra
def test_a_sweep_over_classes_and_settings(small, images, tmp_path):
    sweep = digitlab.sweep(*small, "seed=0,1", f"hydra.sweep.dir={tmp_path}/s", model=["linear", Net], data=images)
    assert len(sweep.runs) == 4
    assert not sweep.failures
    assert {row["model"] for row in rows_of(sweep.table)} == {"linear", "Net"}
    assert list(sweep.effects) == ["model"]
    assert sweep._repr_html_().count("<tr>") >= 3


def rows_of(table):
    return table if isinstance(table, list) else [dict(zip(table.columns, row, strict=True)) for row in table.values]


@pytest.mark.parametrize("launcher", ["hydra/launcher=joblib", "++hydra.launcher.over=joblib"])
def test_launchers_with_other_processes_are_refused(launcher, small, images):
    local = type("Local", (Net,), {"__qualname__": "test.<locals>.Local"})
    with pytest.raises(digitlab.ConfigError, match="other processes can't build the network: Local is defined inside"):
        digitlab.sweep(*small, "seed=0,1", launcher, model=local, data=images)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), r"must return logits, one float tensor \(N, 3\).*\(2, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(50, 3)), r"can't take images of shape \(N, 1, 8, 8\): RuntimeError"),
        (nn.Flatten(), r"must return logits.*\(2, 64\)"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ZeroPad1d((0, 2))), "has no weights to train"),
        (Detached, "its output does not depend on its weights: leave out detach"),
        (partial(Net, hidden=nn.ReLU), "model.hidden=.*must be a number"),
        (partial(Net, hiden=3), "model.hiden=3: no such setting of Net"),
        (partial(Net, hidden=-1), "model=Net: can't be built"),
        (42, "model=<int>: must be a network"),
        ("nope", "model=nope: must be one of"),
        ([Net, Net], "digitlab.sweep"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused_in_one_line(model, message, small, images, tmp_path):
    with pytest.raises(digitlab.ConfigError, match=message) as raised:
        digitlab.train(*small, model=model, data=images, folder=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_softmax_at_the_end_gives_a_warning(small, images, tmp_path):
    network = nn.Sequential(plain_network(), nn.Softmax(1))
    run = digitlab.train(*small, model=network, data=images, folder=tmp_path / "run")
    assert "Sequential returns probabilities, but the loss expects logits" in (run.path / "train.log").read_text()


def test_an_option_of_the_project_with_the_same_name_is_not_chosen(tmp_path, monkeypatch):
    """In a project of ``digitlab init``, its own ``conf/`` comes before what Python users pass."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "Net.yaml").touch()
    nothing = {"data": None, "test_data": None, "class_names": None}
    for project, option in ((None, "Net"), (tmp_path, "Net_2")):
        monkeypatch.setattr(compose, "OWN_CONF", project)
        with own_objects([], model=Net, **nothing) as own:
            assert own.overrides == [f"model={option}"]


def test_names_tell_networks_with_other_code_apart():
    def make(factor):
        namespace = {"nn": nn, "__name__": "somewhere"}
        exec(f"class Net(nn.Linear):\n    def forward(self, x):\n        return {factor} * x", namespace)
        return namespace["Net"]

    first, same, other = (own_network(make(factor)).node[given.GIVEN] for factor in (2, 2, 3))
    assert first == same != other
    linear = nn.Linear(2, 2)
    assert own_network(linear).node == own_network(linear).node != own_network(nn.Linear(2, 2)).node
