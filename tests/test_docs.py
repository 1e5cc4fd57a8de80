"""The documentation is true: its commands run, the files that it shows work, its links lead somewhere.

The commands run in a copy of the project, with few images and one epoch.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import typer
from omegaconf import OmegaConf
from PIL import Image, ImageDraw

import digitlab
from digitlab.cli.commands import app
from digitlab.config.compose import compose, walk
from digitlab.training.experiment import Experiment
from fixtures.browser import Browser

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "digitlab"
# A run in seconds: what is added to every `python train.py` of the README and the tutorial.
SHORT = (
    "trainer=cpu trainer.progress_bar=false data.train_size=300 data.val_size=100 trainer.limit_test_batches=2"
    " trainer.max_epochs=1"
)
# JavaScript that lists the texts of a page whose contrast with their background is below 4.5 (large text: below 3).
PALE_TEXT = """(() => {
  const numbers = color => { const found = color.match(/[\\d.]+/g).map(Number); found[3] ??= 1; return found; };
  const over = (upper, lower) => upper.map((value, i) => i < 3 ? value * upper[3] + lower[i] * (1 - upper[3]) : 1);
  const behind = element => {
    if (element === null) return [255, 255, 255, 1];
    const own = numbers(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(element.parentElement));
  };
  const opacity = element => element === null ? 1 : getComputedStyle(element).opacity * opacity(element.parentElement);
  const luminance = color => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const value = color[i] / 255;
    return sum + weight * (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  const pale = new Set();
  const texts = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    const text = texts.currentNode.textContent.trim(), visible = opacity(element);
    if (!text || !element.getClientRects().length || visible < 0.05) continue;
    const background = behind(element), color = numbers(style.color);
    color[3] *= visible;
    const [bright, dark] = [luminance(over(color, background)), luminance(background)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    if ((bright + 0.05) / (dark + 0.05) < (size >= 24 ? 3 : 4.5)) pale.add(`${element.className}: ${text}`);
  }
  return [...pale];
})()"""
# Commands that prepare the shell, and jobs of the Makefile: those that exist need no other check here.
PREPARATION = re.compile(r"source \.venv/bin/activate$|make (?P<target>[a-z-]+)$")


def files_of(page: str) -> dict[str, str]:
    """The files that a page of docs/ names, each on the line before its code block, and their content."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands_of(page: str) -> list[str]:
    """The commands in the blocks of shell of a page of docs/, or of ``../README.md``."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    return re.sub(r"\s*\\\n\s*", " ", blocks).splitlines()


def shortened(command: str) -> str:
    """The command with one epoch on few images, two epochs where it resumes a run, and figures without GIFs."""
    if command.startswith("digitlab figures"):
        return f"{command} --gif-images 0 2> progress.log"  # it reports its progress on stderr
    if command.startswith("digitlab report"):
        return f"{command} 2> progress.log"
    if not command.startswith("python train.py"):
        return command
    if "resume=" in command:
        return re.sub(r"trainer\.max_epochs=\d+", "trainer.max_epochs=2", command)
    return f"{re.sub(r' trainer.max_epochs=[0-9]+', '', command)} {SHORT}"


def local_links(page: Path) -> set[str]:
    """The targets of the links and pictures of a page that are no addresses, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return {target.partition("#")[0] for target in targets if "://" not in target} - {""}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the files of both pages in place and a miniature of the data set."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "conf", root / "conf")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("mnist", "__pycache__", "*.egg-info"))
    (root / "src/digitlab/data/mnist").symlink_to(PROJECT / "src/digitlab/data/mnist")
    shutil.copy(PROJECT / "train.py", root)
    for page in ("add-a-model.md", "add-a-data-set.md"):
        for name, content in files_of(page).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
    write_letters(root)
    return root


def write_letters(root: Path) -> None:
    """Noise in the four files that the page names, written by the function that it gives."""
    scope: dict[str, object] = {"__name__": "write_idx"}
    exec((root / "write_idx.py").read_text(encoding="utf-8"), scope)
    write_idx = scope["write_idx"]
    random = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 30)):
        write_idx(root / f"data/letters/{split}-images", random.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(root / f"data/letters/{split}-labels", (np.arange(count) % 3).astype(np.uint8))


def run(command: str, project: Path, *more: str) -> str:
    paths = os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A command that sets PYTHONPATH itself still has to find the copy.
    command = command.replace("PYTHONPATH=", "PYTHONPATH=$PYTHONPATH:")
    environment = {name: value for name, value in os.environ.items() if name != "DIGITLAB_DATA"} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        ["sh", "-c", " ".join([command, *more])],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.extra
def test_a_model_and_a_data_set_added_to_the_project_train_together(project: Path) -> None:
    run(commands_of("add-a-model.md")[0], project, "data=letters", "trainer=cpu")
    assert len(list(project.glob("outputs/letters-residual/*/result.json"))) == 1


@pytest.mark.extra
def test_a_data_set_added_to_the_project_is_shown(project: Path) -> None:
    output = run(commands_of("add-a-data-set.md")[0], project)
    assert re.search(r"all\D+270\D+30\D+30\b", output)
    assert (project / "outputs/show/letters.png").is_file()


@pytest.mark.extra
def test_a_model_outside_the_project_trains_once_its_package_is_allowed(project: Path) -> None:
    page = (PROJECT / "docs/add-a-model.md").read_text(encoding="utf-8")
    [module, config] = files_of("add-a-model.md").values()
    [target] = re.findall(r"^_target_: mylab\S+$", page, re.MULTILINE)
    lab = project / "lab"
    (lab / "mylab").mkdir(parents=True)
    (lab / "conf/model").mkdir(parents=True)
    (lab / "mylab/residual.py").write_text(module, encoding="utf-8")
    (lab / "conf/model/residual.yaml").write_text(re.sub("^_target_.*$", target, config, flags=re.MULTILINE))
    (project / "conf/model/residual.yaml").rename(project / "residual.yaml")
    try:
        run(commands_of("add-a-model.md")[1], project, "data=letters", "trainer=cpu", "hydra.run.dir=outputs/own")
    finally:
        (project / "residual.yaml").rename(project / "conf/model/residual.yaml")
    assert "mylab.residual" in (project / "outputs/own/.hydra/config.yaml").read_text()


@pytest.mark.extra
def test_every_command_of_the_readme_and_the_tutorial_works(project: Path) -> None:
    photo = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(photo).line([(100, 30), (100, 170)], fill=0, width=22)
    photo.save(project / "photo.png")
    shown = [*commands_of("../README.md"), *commands_of("tutorial.md")]
    commands = list(dict.fromkeys(map(shortened, shown)))
    assert len(commands) > 10
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        if preparation := PREPARATION.match(command):
            assert preparation["target"] is None or re.search(rf"^{preparation['target']}:", makefile, re.MULTILINE)
            continue
        runs = sorted(project.glob("outputs/mnist-*/*"), key=lambda path: path.stat().st_ctime_ns)
        assert run(command.replace("RUN_FOLDER", str(runs[-1]) if runs else "none yet"), project), command
    assert len(list(project.glob("outputs/sweeps/rates/*/result.json"))) == 12
    assert list(project.glob("outputs/mnist-*/*/figures/confusion_matrix.png"))
    assert list(project.glob("outputs/mnist-*/*/report.html"))


@pytest.mark.long
@pytest.mark.extra
def test_every_command_of_the_page_about_comparing_works(project: Path) -> None:
    """On few images; two runs of the first sweep stand for the two run folders."""
    # The whole test set, because McNemar's test needs it.
    short = SHORT.replace(" trainer.limit_test_batches=2", "")
    keys = "|".join(re.escape(word.partition("=")[0]) for word in short.split())
    for line in commands_of("guide/comparing.md"):
        command = line.replace("OTHER_RUN_FOLDER", "outputs/sweeps/dropout/5_*")
        command = command.replace("RUN_FOLDER", "outputs/sweeps/dropout/0_*")
        if command.startswith("python train.py"):
            # Each key may be given once, and the learning curve needs two sizes.
            command = f"{re.sub(rf' ({keys})=[^ ]+', '', command)} {short}"
            if "sweep=train_size" in command:
                command = command.replace("data.train_size=300", "data.train_size=100,200")
        run(shortened(command) if command.startswith("digitlab report") else command, project)
    assert (project / "differences.png").is_file()
    assert "booktabs" in (project / "table.tex").read_text(encoding="utf-8")
    assert (project / "outputs/sweeps/sizes/figures/learning_curve.png").is_file()
    assert (project / "outputs/sweeps/rates_sgd/figures/learning_rate_range.png").is_file()


@pytest.mark.parametrize(
    "command",
    [line for page in ("../README.md", "tutorial.md") for line in commands_of(page) if line.startswith("python train")],
)
def test_every_train_command_of_the_readme_and_the_tutorial_is_a_valid_configuration(command: str) -> None:
    _, _, *words = shlex.split(command)
    overrides = [word for word in words if "=" in word and not word.startswith("resume=")]
    # Of a sweep, the first run.
    firsts = [re.sub(r"=([^\[({,]*),.*", r"=\1", override) for override in overrides]
    config = compose([each for each in firsts if not re.search(r"=(range|choice|interval|tag)?\(", each)])
    Experiment.from_config(config)


def test_make_train_trains_with_the_settings_it_is_given() -> None:
    recipe = re.search(r"^train: .*\n\t(.*)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert recipe[1] == ".venv/bin/python train.py $(ARGS)"


def test_the_configuration_reference_is_current() -> None:
    written = (PROJECT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    scope = runpy.run_path(str(PROJECT / "docs/generate.py"))
    assert scope["configuration"]() == written, "run `make docs` and commit docs/reference/configuration.md"


def test_the_configuration_reference_has_every_key_of_a_run() -> None:
    written = (PROJECT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    config = OmegaConf.to_container(compose(), resolve=False)
    keys = {key for key, value in walk(config) if not isinstance(value, dict) and not key.endswith("_target_")}
    assert len(keys) > 40
    assert {key for key in keys if f"`{key}`" not in written} == set()


def test_the_readme_is_short_and_shows_every_package() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ {2,}", text.partition("src/digitlab/")[2], re.MULTILINE)) == packages


@pytest.mark.parametrize(
    "page",
    [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))],
    ids=lambda page: page.name,
)
def test_links_lead_to_files(page: Path) -> None:
    missing = {link for link in local_links(page) if not (page.parent / link).exists()}
    # Those pages are made when the site is built.
    assert {link for link in missing if "reference/api/" not in link} == set()


@pytest.mark.parametrize(
    "page", [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_commands_and_options_of_digitlab_exist(page: Path) -> None:
    """Check what is in blocks and in the text: ``digitlab COMMAND --option``, and options that stand alone."""
    options = {
        name: {"--help", *(option for parameter in command.params for option in parameter.opts)}
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    every = set().union(*options.values())
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text(encoding="utf-8"))
    blocks = re.findall(r"^```(?:sh|text|powershell)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    texts = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    codes = [*"".join(blocks).splitlines(), *(code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", texts))]
    for code in codes:
        words = re.split(r" [#|>;] ?", code)[0].split()
        if words[:1] == ["digitlab"] and len(words) > 1 and words[1].isalpha() and words[1].islower():
            assert words[1] in options, code
            if words[1] != "train":
                assert {word for word in words if word.startswith("--")} <= options[words[1]], code
        elif words[:1] and words[0].startswith("--") and page.parent.name == "guide":
            assert words[0] in every, code


@pytest.mark.parametrize(
    "page", [PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_lines_of_code_fit_the_page(page: Path) -> None:
    """A block of a page shows 77 columns; longer commands wrap, which is harder to read."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    # PowerShell has another sign for the continuation of a line.
    lines = [line for kind, block in blocks if kind != "powershell" for line in block.splitlines()]
    assert [line for line in lines if len(line) > 77] == []


def test_pages_are_changed_for_phones_but_their_blocks_of_code_are_not() -> None:
    change = runpy.run_path(str(PROJECT / "docs/readable_pages.py"))["on_page_content"]
    cells = "<td><code>r4_mlp_500_300_l2_2.0e-6</code></td><td><code>r1_pure</code></td>"
    assert change(cells) == cells.replace("mlp_500_300_l2_", "mlp_<wbr>500_<wbr>300_<wbr>l2_<wbr>").replace(
        "r4_", "r4_<wbr>"
    )
    table = "<table>\n<thead>\n<tr>\n<th>key</th>\n</tr></thead></table>"
    assert change(table) == f'<div class="keys">{table}</div>'
    assert change("97.81 ± 0.20 of 28 × 28, 95 %") == "97.81\u00a0±\u00a00.20 of 28\u00a0×\u00a028, 95\u00a0%"
    assert change('<img alt="A run" src="../images/a.png">').startswith('<a href="../images/a.png"><img')
    block = "<pre><code>1 × 2, python train.py -m optimizer.lr=0.1,0.01</code></pre>"
    assert change(block) == block


def test_the_page_about_the_python_api_has_every_public_name() -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    sections = runpy.run_path(str(PROJECT / "docs/api_pages.py"))["USER_API"]
    assert sorted(name for names in sections.values() for name in names) == sorted(digitlab.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as ``make docs`` builds it."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=PROJECT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.xdist_group("site")
@pytest.mark.extra
def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    loaded = r"<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    assert {address for page in pages for address in re.findall(loaded, page.read_text(encoding="utf-8"))} == set()


@pytest.mark.xdist_group("site")
@pytest.mark.extra
def test_the_site_can_be_searched_from_disk(site: Path) -> None:
    assert "optimizer.lr" in (site / "search/search_index.js").read_text(encoding="utf-8")
    assert "javascripts/iframe-worker.js" in (site / "tutorial.html").read_text(encoding="utf-8")
    assert (site / "javascripts/iframe-worker.js").is_file()


@pytest.mark.xdist_group("site")
@pytest.mark.extra
def test_links_of_the_site_lead_to_pages_and_headings(site: Path) -> None:
    """Also those of notebooks and docstrings, which MkDocs does not check."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "404.html"}
    names = {path: set(re.findall(r"\bid=\"([^\"]+)\"", text)) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for target in re.findall(r"<a\b[^>]*\bhref=\"([^\":]+)\"", text):
            file, _, anchor = unquote(target).partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists() or (anchor and there in names and anchor not in names[there]):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert broken == []


@pytest.mark.xdist_group("site")
@pytest.mark.extra
def test_the_site_documents_functions_and_constructors_from_their_docstrings(site: Path) -> None:
    assert 'id="digitlab.training.loading.load"' in (site / "reference/api/training.html").read_text(encoding="utf-8")
    page = (site / "reference/api/models.html").read_text(encoding="utf-8")
    lenet = page.partition('id="digitlab.models.cnn.LeNet"')[2].partition("</pre>")[0]
    assert re.findall(r"image_shape|classes|dropout", lenet) == ["image_shape", "classes", "dropout"]
    # A name in a docstring is a link to what it means.
    link = r'<a [^>]*href="core.html#digitlab.core.errors.ConfigError"[^>]*><code>ConfigError</code></a>'
    assert re.search(link, (site / "reference/api/digitlab.html").read_text(encoding="utf-8"))


@pytest.mark.xdist_group("site")
@pytest.mark.extra
@pytest.mark.parametrize(
    "name",
    [
        "tutorial.html",
        "guide/data.html",
        "notebooks/3_sweep.html",
        "reference/api/models.html",
        "reference/configuration.html",
    ],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_their_text_is_readable(site: Path, browser: Browser, name: str, scheme: str) -> None:
    """Wide tables and code scroll within themselves; text has the contrast of WCAG 2.1 level AA, 4.5 to 1."""
    browser.prefer(scheme)
    for _ in range(2):
        browser.open(site / name, width=390, phone=True)
        browser.run("localStorage.clear()")  # the page remembers the colour scheme of its first visit
    assert browser.run("document.querySelector('[data-md-color-scheme]').dataset.mdColorScheme") == (
        "slate" if scheme == "dark" else "default"
    )
    assert browser.run("document.documentElement.scrollWidth") == 390
    # The rows of the configuration reference become blocks; other wide tables scroll within themselves.
    wide = "[...document.querySelectorAll('.keys .md-typeset__scrollwrap')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.run(f"{wide}.length") == 0
    assert browser.run("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
    assert browser.run(PALE_TEXT) == []
