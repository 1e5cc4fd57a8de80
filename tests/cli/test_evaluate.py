"""``digitlab evaluate`` on corrupted and out-of-distribution images: output, figures, and error messages."""

import re
import shutil

import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu

from digitlab import load


@pytest.fixture(scope="module")
def trained(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "linear", "model=linear")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def rows(out):
    return [re.findall(r"[\d.]+", line) for line in out.splitlines() if re.match(r"│ +\d ", line)]


@pytest.mark.extra
def test_all_severities_give_a_table_and_a_figure(digitlab, run):
    code, out, err = digitlab("evaluate", run, "--corrupt", "noise", "--device", "cpu")
    assert (code, err) == (0, "")
    assert [row[0] for row in rows(out)] == list("012345")
    accuracies = [float(row[1]) for row in rows(out)]
    assert accuracies[0] > accuracies[-1]
    path = run / "figures" / "corrupt_noise_mnist.png"
    assert out.splitlines()[-1] == str(path)
    with Image.open(path) as figure:
        assert min(figure.size) > 500


@pytest.mark.extra
def test_a_figure_is_overwritten_only_with_force(digitlab, run):
    path = run / "figures" / "corrupt_invert_mnist.png"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    code, out, err = digitlab("evaluate", run, "--corrupt", "invert", "--device", "cpu")
    assert (code, len(rows(out)), path.read_bytes()) == (0, 6, b"mine")
    assert err == f"{path}: already exists; --force overwrites it\n"
    options = ("--force", "--device", "cpu", "--format", "svg", "--width", "column")
    assert digitlab("evaluate", run, "--corrupt", "invert", *options)[2] == ""
    assert path.read_bytes() == b"mine"
    width = re.search(r'<svg [^>]*width="([\d.]+)pt"', path.with_suffix(".svg").read_text(encoding="utf-8"))
    assert float(width[1]) == pytest.approx(3.5 * 72, abs=0.01)
    assert digitlab("evaluate", run, "--corrupt", "invert", "--force", "--device", "cpu")[2] == ""
    assert path.read_bytes() != b"mine"


def test_one_severity_gives_one_row_and_no_figure(digitlab, run):
    code, out, err = digitlab("evaluate", run, "--corrupt", "shift", "--severity", "2", "--device", "cpu")
    assert (code, err, [row[0] for row in rows(out)]) == (0, "", ["2"])
    assert not (run / "figures").exists()


def test_noise_gives_a_table_and_the_auroc(digitlab, run):
    code, out, err = digitlab("evaluate", run, "--out-of-distribution", "noise", "--device", "cpu")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("uniform noise", "mean confidence"))
    model, data = load(run)
    noise = torch.randint(0, 256, (10_000, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        confidence, other = (model(images).softmax(1).max(1).values for images in (data.test_set.images, noise))
    own = re.search(r"MNIST +│ +10000 │ +([\d.]+) │", out)
    assert float(own[1]) == pytest.approx(float(confidence.mean()), abs=1e-4)
    larger = mannwhitneyu(confidence.numpy(), other.numpy()).statistic / 10_000**2
    auroc = float(re.search(r"AUROC of the confidence, MNIST against uniform noise: ([\d.]+)$", out.strip())[1])
    # Other noise than that of the command: the standard error is below 0.005.
    assert auroc == pytest.approx(larger, abs=0.025)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_other_data_sets_of_any_shape_are_accepted(digitlab, run, data_root, name):
    code, out, err = digitlab("evaluate", run, "--out-of-distribution", name, "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.count("10000") == 2


def test_a_data_set_with_other_classes_is_evaluated_with_a_warning(digitlab, run, data_root):
    code, out, err = digitlab("evaluate", run, "--data", "fashion_mnist", "--device", "cpu")
    assert code == 0
    assert "accuracy" in out
    assert err.startswith("the classes of Fashion-MNIST are not those of MNIST: metrics compare their numbers only")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corrupt", "nois"], "--corrupt=nois: must be one of noise, blur, stretch, pen, rotate, shift, occlude, "),
        (["--corrupt", "noise", "--severity", "6"], "--severity=6: must be a whole number from 1 to 5"),
        (["--corrupt", "noise", "--severity", "0"], "--severity=0: must be a whole number from 1 to 5"),
        (["--severity", "3"], "--severity=3: needs --corrupt"),
        (["--out-of-distribution", "mnist"], "--out-of-distribution=mnist: is the data set on which the network"),
        (["--out-of-distribution", "fashon_mnist"], "did you mean `fashion_mnist`"),
    ],
)
def test_a_wrong_option_gives_one_line(digitlab, run, arguments, message):
    code, out, err = digitlab("evaluate", run, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_severity_that_is_not_a_number_is_a_usage_error(digitlab, run):
    assert digitlab("evaluate", run, "--corrupt", "noise", "--severity", "much")[0] == 2


def test_the_help_names_every_corruption(digitlab):
    from digitlab.data.corrupt import CORRUPTIONS

    assert set(CORRUPTIONS) <= set(re.findall(r"\w+", digitlab("evaluate", "--help")[1]))


def test_a_run_without_an_epoch_has_no_checkpoint(digitlab, run):
    shutil.rmtree(run / "checkpoints")
    code, out, err = digitlab("evaluate", run, "--corrupt", "noise")
    message = "there is no such checkpoint: no epoch is finished, or the file was deleted"
    assert (code, out, err) == (1, "", f"{run}/checkpoints/best.ckpt: {message}\n")


def test_a_checkpoint_of_another_data_set_is_refused(digitlab, run):
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["data"]["name"] = "fashion_mnist"
    torch.save(content, path)
    code, out, err = digitlab("evaluate", run)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "best.ckpt: was trained on fashion_mnist, but the run's configuration says mnist" in err
