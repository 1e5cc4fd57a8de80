"""Exported networks compute what their runs compute, in other programs: onnxruntime, torch.export and ten lines."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import digitlab as package
from digitlab.config.compose import ROOT
from digitlab.core.errors import ConfigError, RunError
from digitlab.data.sources import MnistSource
from digitlab.export import formats
from digitlab.export.network import ExportedNetwork
from digitlab.training.settings import Execution

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")

PAGE = ROOT / "docs/guide/exporting.md"
# A name for each network, and the settings that make it.
NETWORKS = {
    "mlp": ("model=mlp", "model.hidden=[32,16]", "model.dropout=0.2", "model.batch_norm=true", "ema.decay=0.9"),
    # At a higher rate all outputs end next to 0, where the largest one is a matter of rounding.
    "linear": ("model=linear", "loss=mse", "loss.output=sigmoid", "optimizer.lr=0.001"),
    "raw": ("model=mlp", "model.hidden=[16]", "model.activation=[tanh]", "loss=mse", "loss.output=raw"),
    "lenet": ("model=lenet", "tta=shift"),
    "cnn": ("model=cnn", "model.width=4", "tta=flip"),
    "fast_cnn": ("model=fast_cnn", "model.widths=[8,8]"),
    "torchvision": ("model=torchvision", "model.name=mobilenet_v3_small"),
    "unknown": ("model=mlp", "model.hidden=[16]", "data=mnist_none"),
    "double": ("model=mlp", "model.hidden=[16]", "trainer.precision=64"),
    "bf16": ("model=mlp", "model.hidden=[16]", "trainer.precision=bf16"),
}


@pytest.fixture(scope="module")
def mlp(train_tiny: Callable[..., package.Run], tmp_path_factory: pytest.TempPathFactory) -> package.Run:
    return train_tiny(tmp_path_factory.mktemp("mlp") / "run", "model=mlp", "model.hidden=[32]")


@pytest.fixture
def images() -> Tensor:
    """The first thousand test images, uint8 (N, 1, 28, 28)."""
    return MnistSource().read(Path())[1].images[:1000]


def expected_probabilities(run: package.Run, images: Tensor) -> np.ndarray:
    """The run's own probabilities; in float32 where it was trained in bf16."""
    classifier = run.model()
    if run.config.trainer.precision == "bf16":
        classifier.execution = Execution()
    with torch.no_grad():
        return classifier.loss.scores(classifier(images)).numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5
    assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_computes_what_the_run_computes(
    name: str, train_tiny: Callable[..., package.Run], images: Tensor, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", *NETWORKS[name])
    path = run.export("onnx", tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(path)
    assert_same(session.run(None, {"images": (images / 255).numpy()})[0], expected_probabilities(run, images))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == run.model().facts.class_names
    assert metadata.get("unknown_class") == ("none" if name == "unknown" else None)
    # Any number of images.
    for count in (1, 3):
        assert session.run(None, {"images": (images[:count] / 255).numpy()})[0].shape[0] == count
    content = path.read_bytes()
    assert [place for place in (str(ROOT).encode(), b"site-packages", b".py") if place in content] == []


@pytest.mark.extra
def test_a_graph_for_bytes_takes_the_pixels_of_a_file(mlp: package.Run, images: Tensor, tmp_path: Path) -> None:
    path = mlp.export("onnx", tmp_path / "bytes.onnx", pixels="uint8")
    session = onnxruntime.InferenceSession(path)
    assert [each.type for each in session.get_inputs()] == ["tensor(uint8)"]
    assert_same(session.run(None, {"images": images.numpy()})[0], expected_probabilities(mlp, images))


@pytest.mark.extra
def test_a_program_is_used_without_digitlab(mlp: package.Run, images: Tensor, tmp_path: Path) -> None:
    path = mlp.export("torch", tmp_path / "network.pt2")
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(json.loads(extra["metadata.json"])["class_names"]) == list("0123456789")
    network = program.module()
    assert_same(network(images / 255).numpy(), expected_probabilities(mlp, images))
    assert network(images[:1] / 255).shape == (1, 10)


def test_the_lines_of_the_page_load_weights_without_digitlab(
    mlp: package.Run, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp.export("safetensors", tmp_path / "network.safetensors")
    [lines] = re.findall(
        r"^```python\n(import json\nfrom collections.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert "digitlab" not in lines
    assert len(re.findall(r"^(?!import|from)\S.*$", lines, re.MULTILINE)) <= 10
    monkeypatch.chdir(tmp_path)
    scope = {"images": images / 255}
    exec(lines.replace("256", "32"), scope)
    assert_same(scope["probabilities"].detach().numpy(), expected_probabilities(mlp, images))
    assert scope["names"] == list("0123456789")


@pytest.mark.extra
def test_exporting_from_the_command_line(
    mlp: package.Run, digitlab: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = digitlab("export", mlp.path, "--to", "onnx")
    assert (code, err) == (0, "")
    checked, path = out.splitlines()
    assert re.fullmatch(
        r"checked on 1,000 test images: the largest difference of a probability is \d\.\de-\d\d, and all classes are "
        "the same",
        checked,
    )
    assert path == str(mlp.path / "network.onnx")
    code, out, err = digitlab("export", mlp.path, "--to", "onnx")
    assert (code, out, err) == (2, "", f"--out={path}: already exists: --force overwrites it\n")
    code, out, err = digitlab("export", mlp.path, "--to", "safetensors", "--input", "uint8")
    assert (code, out) == (2, "")
    assert err.startswith("--input=uint8: has no effect with --to safetensors")
    for name in ("network.pt2", "network.pt"):
        code, out, err = digitlab("export", mlp.path, "--to", "onnx", "--out", mlp.path / name)
        assert (code, out) == (2, "")
        assert err.endswith(f"{name}: must end in .onnx, because --to onnx writes such a file\n")


def test_without_its_packages_the_extra_is_named(mlp: package.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digitlab.core.extras.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"^to=onnx: needs onnxscript: run pip install -e '\.\[export\]'"):
        mlp.export("onnx")


@pytest.mark.extra
def test_a_run_on_deskewed_images_is_refused(train_tiny: Callable[..., package.Run], tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", "model=linear", "data.deskew=true")
    with pytest.raises(ConfigError, match=r"folder=.*trained with data.deskew=true"):
        run.export("onnx")


class Own(nn.Module):
    """A network of a user's, whose last layer has a name of its own."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(image_shape[0], 4, kernel_size=5, stride=3)
        self.classify = nn.LazyLinear(classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(torch.relu(self.filters(images)).reshape(images.shape[0], -1))


@pytest.mark.extra
def test_a_network_of_ones_own_and_its_hidden_units(
    train_tiny: Callable[..., package.Run], images: Tensor, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", model=Own)
    session = onnxruntime.InferenceSession(run.export("onnx"))
    assert_same(session.run(None, {"images": (images / 255).numpy()})[0], expected_probabilities(run, images))
    classifier = run.model()
    _, units = ExportedNetwork(classifier, hidden=True)(images[:5])
    maps = torch.relu(classifier.network.filters(classifier.normalise(images[:5])))
    assert torch.allclose(units, maps.flatten(1))


class Noisy(nn.Module):
    """A network whose outputs are random, so that no export can compute the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) + torch.rand(len(images), 1) * torch.arange(10)


class Undecided(Noisy):
    """A network whose computation depends on the values of its images."""

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) * (2 if images.sum() > 0 else 1)


@pytest.fixture(scope="module")
def noisy(train_tiny: Callable[..., package.Run], tmp_path_factory: pytest.TempPathFactory) -> package.Run:
    return train_tiny(tmp_path_factory.mktemp("own") / "run", model=Noisy)


def test_an_export_that_differs_from_its_run_is_not_written(noisy: package.Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no file is written.* differ by up to"):
        noisy.export("safetensors", tmp_path / "network.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_no_graph_is_refused_in_one_line(
    train_tiny: Callable[..., package.Run], tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", model=Undecided)
    with pytest.raises(RunError, match=r"^Undecided: torch.export can't express this network as a graph: .*$"):
        run.export("torch")


def test_onnxruntime_reports_nothing_about_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with pytest.raises(Exception, match=r"(?i)protobuf"):
        formats._onnx_function(b"no model")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
