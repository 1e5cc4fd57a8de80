"""The digitlab command as a user runs it: what it prints, what it leaves alone, and how it refuses."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from PIL import Image

from digitlab.data.sources import MnistSource
from fixtures.children import Child

PROJECT = Path(__file__).parents[1]

Digitlab = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, train_py_started: Callable[..., Child]) -> Path:
    """A folder with one run of train.py in it, ``mnist-linear/a``."""
    root = tmp_path_factory.mktemp("outputs")
    overrides = ["model=linear", "trainer=cpu", "trainer.max_epochs=2", "data.train_size=5000", "seed=3"]
    ended = train_py_started(*overrides, f"hydra.run.dir={root}/mnist-linear/a", cwd=root).wait()
    assert ended.code == 0, ended.stderr
    return root


@pytest.fixture
def run(outputs: Path) -> Path:
    return outputs / "mnist-linear" / "a"


@pytest.mark.sample(3)
@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["runs", "--root", str(PROJECT / "tests")]])
def test_what_needs_no_torch_imports_none(arguments: list[str]) -> None:
    code = "import sys; from digitlab.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_evaluate_prints_what_the_run_measured_and_writes_nothing(digitlab: Digitlab, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, out, err = digitlab("evaluate", run, "--device", "cpu")
    assert (code, err) == (0, "")
    for name in ("accuracy", "loss", "f1"):
        assert f"{json.loads((run / 'result.json').read_text())['metrics'][f'test/{name}']:.4f}" in out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_evaluate_refuses_in_one_line(digitlab: Digitlab, run: Path, tmp_path: Path) -> None:
    refused = [
        (["evaluate", run, "--data", "cifar10"], "data=cifar10: has 10 classes of images (3, 32, 32)"),
        (["evaluate", run, "--data", "mnst"], "did you mean `mnist`"),
        (["evaluate", tmp_path], f"RUN_FOLDER={tmp_path}: is no run folder"),
        (["evaluate", tmp_path / "x"], "there is no such folder"),
    ]
    if not (PROJECT / "data").is_dir():
        del refused[0]
    if not torch.cuda.is_available():
        refused.append((["evaluate", run, "--device", "cuda"], "device=cuda: no CUDA device is here"))
    for arguments, message in refused:
        code, out, err = digitlab(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.parametrize("option", [["--device", "tpu"], ["--checkpoint", "first"], ["--data"]])
def test_an_option_of_another_value_is_a_usage_error(digitlab: Digitlab, run: Path, option: list[str]) -> None:
    assert digitlab("evaluate", run, *option)[0] == 2


def copies(run: Path, root: Path, accuracies: list[float | None]) -> None:
    """Runs with these test accuracies, in this order; None: no result yet."""
    for number, accuracy in enumerate(accuracies):
        shutil.copytree(run / ".hydra", root / str(number) / ".hydra")
        os.utime(root / str(number) / ".hydra", (number, number))
        if accuracy is not None:
            result = json.loads((run / "result.json").read_text())
            result["metrics"]["test/accuracy"] = accuracy
            (root / str(number) / "result.json").write_text(json.dumps(result))


def table(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out)))


def test_runs_lists_all_in_the_order_they_were_begun(digitlab: Digitlab, run: Path, tmp_path: Path) -> None:
    copies(run, tmp_path, [0.9, None, 0.95])
    code, out, err = digitlab("runs", "--root", tmp_path)
    header, *lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [os.path.abspath(line.split()[-1]) for line in lines] == [str(tmp_path / name) for name in "012"]
    assert header.split()[:5] == ["status", "data", "model", "seed", "epochs"]
    assert lines[0].split()[:5] == ["finished", "mnist", "linear", "3", "2"]
    assert lines[1].split()[:3] == ["unfinished", "mnist", "linear"]
    assert len({line.index("mnist") for line in lines}) == 1


def test_runs_of_a_folder_may_be_listed_without_the_option(digitlab: Digitlab, run: Path, tmp_path: Path) -> None:
    copies(run, tmp_path, [0.9])
    assert digitlab("runs", tmp_path, "--json")[:2] == digitlab("runs", "--root", tmp_path, "--json")[:2]
    for words, message in (
        ([tmp_path / "nowhere"], f"FOLDER={tmp_path}/nowhere: there is no such folder"),
        ([tmp_path, "--root", tmp_path], f"--root={tmp_path}: can't be given together with the folder {tmp_path}"),
    ):
        code, out, err = digitlab("runs", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(message)


def test_runs_are_sorted_with_the_best_first_and_those_without_it_last(
    digitlab: Digitlab, run: Path, tmp_path: Path
) -> None:
    copies(run, tmp_path, [0.9, None, 0.95])
    rows = table(digitlab("runs", "--root", tmp_path, "--csv", "--sort", "test/accuracy")[1])
    assert [row["test/accuracy"] for row in rows] == ["0.95", "0.9", ""]
    assert digitlab("runs", "--root", tmp_path, "--sort", "test/f1")[1].splitlines()[0].split()[-3] == "test/f1"
    code, out, err = digitlab("runs", "--root", tmp_path, "--sort", "test/acuracy")
    assert (code, out) == (2, "")
    assert "did you mean `test/accuracy`?" in err


def test_losses_are_better_when_small(digitlab: Digitlab, run: Path, tmp_path: Path) -> None:
    copies(run, tmp_path, [0.5, 0.6])
    result = json.loads((tmp_path / "1" / "result.json").read_text())
    result["metrics"]["val/loss"] = 0.0
    (tmp_path / "1" / "result.json").write_text(json.dumps(result))
    rows = table(digitlab("runs", "--root", tmp_path, "--csv", "--sort", "val/loss")[1])
    assert rows[0]["val/loss"] == "0.0"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metrics": 3}'])
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_listed(
    digitlab: Digitlab, run: Path, tmp_path: Path, content: str
) -> None:
    copies(run, tmp_path, [0.9, 0.95])
    (tmp_path / "0" / "result.json").write_text(content)
    code, out, err = digitlab("runs", "--root", tmp_path)
    assert (code, len(out.splitlines()), err.count("\n")) == (0, 2, 1)
    assert err.startswith(f"{tmp_path}/0: cannot be read: ")


def test_no_runs_and_no_folder_are_said_so(digitlab: Digitlab, tmp_path: Path) -> None:
    assert digitlab("runs", "--root", tmp_path) == (0, "", f"no runs under {tmp_path}\n")
    code, _, err = digitlab("runs", "--root", tmp_path / "nowhere")
    assert (code, "there is no such folder" in err) == (2, True)


def test_show_counts_the_split_and_draws_the_images(
    digitlab: Digitlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digitlab.config.compose.ROOT", tmp_path)
    code, out, err = digitlab("show", "data=mnist", "augment=[shift,noise]", "data.normalize=unit")
    assert (code, err) == (0, "")
    assert "55000" in out
    assert "0.1307" in out  # MNIST's well-known mean, whatever the normalisation
    plain, augmented = (Image.open(path) for path in out.split()[-2:])
    assert plain.size == augmented.size
    assert plain.tobytes() != augmented.tobytes()
    assert {path.name for path in (tmp_path / "outputs" / "show").iterdir()} == {"mnist.png", "mnist_augmented.png"}


def test_show_refuses_settings_that_it_does_not_use(digitlab: Digitlab) -> None:
    for overrides, words in (
        (["data=mnist", "model=lenet"], "model=lenet: has no effect"),
        (["mnist"], "did you mean `data=mnist`?"),
    ):
        code, out, err = digitlab("show", *overrides)
        assert (code, out) == (2, "")
        assert words in err


def test_show_refuses_what_train_refuses(digitlab: Digitlab) -> None:
    code, out, err = digitlab("show", "data.val_size=60000")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "data.val_size=60000" in err


def test_predict_names_the_class_of_each_file_and_each_file_that_is_none(
    digitlab: Digitlab, run: Path, tmp_path: Path
) -> None:
    test = MnistSource().read(tmp_path)[1]
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path, image in zip(paths, test.images[:12], strict=True):
        Image.fromarray(255 - image[0].numpy()).resize((84, 84)).save(path)
    code, out, err = digitlab("predict", run, *paths)
    assert (code, err) == (0, "")
    named = [line.split("│")[2].strip() for line in out.splitlines() if ".png" in line]
    assert sum(int(name) == label for name, label in zip(named, test.labels[:12].tolist(), strict=True)) >= 9
    (tmp_path / "text.png").write_text("no picture")
    code, out, err = digitlab("predict", run, tmp_path / "text.png", paths[0], tmp_path / "nowhere.png")
    assert (code, err.count("\n"), out.count(".png")) == (1, 2, 1)
    assert digitlab("predict", run, tmp_path / "text.png")[:2] == (1, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run x", "digitlab: No such command 'run'. Did you mean 'runs'?; digitlab --help explains it"),
        ("list", "digitlab: No such command 'list'; did you mean runs?"),
        ("resume x", "digitlab: No such command 'resume'; write python train.py resume=RUN_FOLDER"),
        ("model=mlp", "digitlab: No such command 'model=mlp'; settings of a training belong after python train.py"),
        ("-m model=mlp", "settings of a training belong after python train.py"),
        ("runs --modle mlp", "digitlab runs: No such option: --modle"),
        ("runs a b", "digitlab runs: Got unexpected extra argument"),
        ("sweep", "digitlab sweep: Missing argument 'SWEEP_FOLDER'; digitlab sweep --help explains it"),
        ("sweep x --table html", "digitlab sweep: Invalid value for '--table': 'html' is not one of 'latex'"),
        ("figures x --gif-images -1", "digitlab figures: --gif-images=-1: must be greater than or equal to 0; "),
        ("watch --port abc", "digitlab watch: --port=abc: must be a valid integer; digitlab watch --help"),
        ("runs --csv --json", "--csv --json: can't be given together: choose one of them"),
        ("runs out.csv", "FOLDER=out.csv: there is no such folder; write into a file with > out.csv"),
        ("sweep x --table csv --format pdf", "--format: has no effect: --table draws no figures"),
        ("sweep x --json --importance", "--importance: has no effect: --json draws no figures"),
        ("sweep x --no-figures --width page", "--width: has no effect: --no-figures draws none"),
        ("figures x --only confusion_matrix --gif-every 3", "--gif-every: has no effect: --only draws no GIFs"),
        ("figures x --only confusion_matrix --class 3", "--class: has no effect: only weights_units and GIFs"),
        ("figures x --gif-images 0 --gif-batch 3", "--gif-batch: has no effect: --gif-images 0 draws no GIFs"),
        ("evaluate x --format pdf", "--format: has no effect: only --corrupt without --severity draws a figure"),
        ("evaluate x --corrupt blur --severity 2 --force", "--force: has no effect"),
        ("evaluate x --data data=mnist", "--data=data=mnist: must be a name: write --data mnist"),
        ("compare x y --force", "--force: has no effect: without --figure nothing is written"),
        ("compare x y --key a --metric m --key b", "--key a and b: the option has one value: give it once"),
        ("report x --out=x.html --out y.html", "--out x.html and y.html: the option has one value: give it once"),
        ("report x --out x.pdf", "--out=x.pdf: must end in .html"),
        ("predict x a.png --csv out.csv", "--csv=out.csv: the option takes no file; write into one with > out.csv"),
        ("show data = mnist", "data = mnist: must be written data=mnist, with no spaces around ="),
        ("init /proc/mylab_x", "NAME=/proc/mylab_x: can't be made"),
        ("plot x", "digitlab: No such command 'plot'; did you mean figures?"),
        ("rm x", "digitlab: No such command 'rm'; a run is a folder: rm -r RUN_FOLDER removes it"),
        ("config", "digitlab: No such command 'config'; write python train.py --cfg job"),
        ("runs -h", "digitlab runs: No such option: -h; write digitlab runs --help"),
        ("runs model=mlp", "FOLDER=model=mlp: is no folder: this command lists all runs"),
        ("watch 6008", "write digitlab watch --port 6008"),
        ("sweep x y", "digitlab compare compares several sweeps"),
        ("figures x y", "give one run at a time"),
        ("evaluate x data=mnist", "write --data mnist"),
        ("explain x --what layers,classes", "give the option once for each value"),
        ("export x --to onnx,torch", "is not one of 'onnx', 'safetensors', 'torch'; digitlab export --help"),
        ("figures x lr=0.1", "settings of a training belong after python train.py"),
        ("init .", "NAME=.: is there already and is not empty: choose another name"),
        ("init my-lab", "first a letter, for example my_lab"),
        ("help", "digitlab: No such command 'help'; write digitlab --help"),
        ("version", "digitlab: No such command 'version'; write digitlab --version"),
        ("-v", "digitlab: No such option: -v; write digitlab --version"),
        ("watch outputs", "write digitlab watch --root outputs"),
        ("sweep x --table", "digitlab sweep: Option '--table' requires an argument; digitlab sweep --help"),
        ("sweep x --latex", "digitlab sweep: No such option: --latex; write --table latex"),
        ("export x --format=onnx", "write --to"),
        ("evaluate x --gpu", "write --device cuda"),
        ("sweep optimizer.lr=0.1,0.2", "is no folder: a sweep starts with python train.py -m optimizer.lr=0.1,0.2"),
        ("compare optimizer=adam optimizer=sgd", "is no folder: settings in one folder are compared with --key KEY"),
        ("demo x --out page", "--out=page: must end in .html: the demo is a web page"),
        ("reproduce all", "NAME=all: is written without any name: digitlab reproduce makes all rows"),
        ("reproduce r9", "NAME=r9: there is no such row; the most similar of"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(
    digitlab: Digitlab, one_line: Callable[[str], bool], words: str, message: str
) -> None:
    code, out, err = digitlab(*words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert one_line(err), err


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sweep of one run, a file and an empty folder; it is the current folder."""
    run = tmp_path / "outputs" / "sweeps" / "rates" / "0"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("model: {}")
    (run.parent / "sweep.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("digitlab.config.compose.ROOT", tmp_path)
    monkeypatch.setattr("digitlab.results.run_hints.ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep notes.txt", "SWEEP_FOLDER=notes.txt: is a file: give the folder of a sweep"),
        ("sweep outputs/sweeps/rates/sweep.json", "sweep.json: is a file: give outputs/sweeps/rates"),
        ("sweep outputs/sweeps/rates/0", "is a run of the sweep outputs/sweeps/rates: give that one"),
        ("sweep rate", "there is no such folder; the most similar sweep is outputs/sweeps/rates"),
        ("sweep outputs/sweeps/lr=0.1", "there is no such folder; the most similar sweep is outputs/sweeps/rates"),
        ("compare outputs/0_lr=0.1 empty", "FOLDER=outputs/0_lr=0.1: there is no such folder; the most similar folder"),
        ("runs notes.txt", "FOLDER=notes.txt: is a file: give a folder"),
        ("runs rates", "there is no such folder; the most similar folder with runs is outputs/sweeps/rates"),
        ("watch --root notes.txt", "--root=notes.txt: is a file: give a folder"),
        ("watch --root rates", "--root=rates: there is no such folder; the most similar folder with runs is outputs"),
        ("compare outputs notes.txt", "FOLDER=notes.txt: is a file: give a folder"),
        ("compare rates empty", "FOLDER=rates: there is no such folder; the most similar folder with runs is outputs"),
        ("report notes.txt", "FOLDER=notes.txt: is a file: give a folder"),
        ("report outputs/rates", "FOLDER=outputs/rates: there is no such folder; the most similar folder with runs is"),
        ("evaluate outputs/sweeps/rates", "is no run folder: it has no .hydra/config.yaml; its newest run is outputs"),
        ("figures RUN_FOLDER", "RUN_FOLDER=RUN_FOLDER: stands for a folder: the last line that a training prints is"),
        ("evaluate <run_folder>", "the folder of its run; the newest run is outputs/sweeps/rates/0"),
        ("sweep SWEEP_FOLDER", "SWEEP_FOLDER=SWEEP_FOLDER: stands for a folder: the last line that a training prints"),
        ("report FOLDER…", "FOLDER=FOLDER…: stands for a folder: the last line that a training prints"),
        ("figures notes.txt", "RUN_FOLDER=notes.txt: is a file: give the folder of the run"),
        ("demo rates", "RUN_FOLDER=rates: there is no such folder; the most similar run folder is outputs/sweeps"),
        ("export notes.txt --to onnx", "RUN_FOLDER=notes.txt: is a file: give the folder of the run"),
        ("predict 3.png outputs/sweeps/rates/0", "the run folder comes first: write digitlab predict outputs/sweeps"),
    ],
)
def test_a_wrong_kind_of_folder_is_answered_in_one_line(
    digitlab: Digitlab, one_line: Callable[[str], bool], laboratory: Path, words: str, message: str
) -> None:
    code, out, err = digitlab(*words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert one_line(err), err


def test_an_empty_argument_is_refused_because_it_would_be_the_current_folder(digitlab: Digitlab) -> None:
    for words in (["report", ""], ["runs", ""], ["runs", "--root", ""]):
        assert digitlab(*words) == (2, "", "'': an argument is empty: write the folder, file or value\n")


def test_without_arguments_the_help_is_shown(digitlab: Digitlab) -> None:
    code, out, err = digitlab()
    assert code == 2
    assert "Usage: digitlab" in out + err


def test_the_version_is_that_of_digitlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from digitlab.cli import main
    from digitlab.cli.train import run

    for command, start in (("digitlab", main), ("train.py", run)):
        monkeypatch.setattr(sys, "argv", [command, "--version"])
        start()
        assert capsys.readouterr().out.startswith("digitlab 0.")


def test_ctrl_c_while_a_message_is_made_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from digitlab.cli import train

    def refused() -> None:
        raise HydraException

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_or_sweep", refused)
    monkeypatch.setattr(train, "composition_error", interrupted)
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    with pytest.raises(SystemExit) as ended:
        train.run()
    assert ended.value.code == 130
