"""The demo page in Chromium: it sees and answers what ``digitlab predict`` does, for pens, pictures and keyboards."""

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from digitlab.api.run import Run
from digitlab.core.errors import DataError
from digitlab.data.own_images import as_data_set_image
from digitlab.export.demo import write_demo
from digitlab.training.loading import open_run

# Its fixtures take seconds, so one process runs all of these tests.
pytestmark = pytest.mark.xdist_group("demo page")

pytest.importorskip("onnxruntime", reason="needs the extra export")

# Strokes as points in fractions of the paper: a 3, a 7 with its bar, a straight line, and a dot.
STROKES = {
    "3": [[(0.35, 0.25), (0.5, 0.18), (0.62, 0.3), (0.5, 0.46), (0.64, 0.6), (0.52, 0.8), (0.34, 0.72)]],
    "7": [[(0.3, 0.2), (0.7, 0.22), (0.5, 0.85)], [(0.4, 0.52), (0.66, 0.5)]],
    "1": [[(0.5, 0.15), (0.5, 0.85)]],
    "dot": [[(0.2, 0.9), (0.2, 0.9)]],
}


def demo(runs: Sequence[Run], folder: Path) -> Path:
    path = folder / "demo.html"
    write_demo([open_run(run.path) for run in runs], path)
    return path


@pytest.fixture(scope="module")
def runs(train_tiny: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    more = ("data.train_size=2000", "optimizer.lr=0.1")
    return [
        train_tiny(folder / "dense", "model=mlp", "model.hidden=[32]", *more),
        train_tiny(folder / "rejecting", "model=lenet", "data=mnist_none", *more),
    ]


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(runs, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def colour_run(train_tiny: Callable[..., Run], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on small photographs, which nobody can draw."""
    overrides = ("model=cnn", "model.width=4", "data=folder", f"data.path={pictures}", "data.train_size=100")
    return train_tiny(tmp_path_factory.mktemp("colour") / "run", *overrides)


def opened(browser: Any, page: Path, **options: object) -> None:
    browser.open(page, **options)
    browser.run_until("document.body.dataset.ready")


def settle(browser: Any) -> None:
    """Wait until the networks have answered for the last picture, and the occlusion maps are drawn."""
    browser.run("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    browser.run_until("!working && wanted === undefined && frame === null")


def answers(browser: Any) -> list[np.ndarray]:
    return [np.array(each) for each in browser.run("views.map((view) => [...view.probabilities])")]


def drawn(browser: Any) -> Image.Image:
    """The paper as a picture."""
    address = browser.run("paper.toDataURL('image/png')")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def assert_answers_like(browser: Any, runs: Sequence[Run], picture: Image.Image | Path) -> None:
    for run, found in zip(runs, answers(browser), strict=True):
        expected = run.predict(picture)[0].numpy()
        assert np.abs(found - expected).max() <= 1e-3
        assert found.argmax() == expected.argmax()


@pytest.mark.parametrize("strokes", STROKES.values(), ids=STROKES)
def test_strokes_are_answered_as_predict_answers(
    browser: Any, page: Path, runs: list[Run], strokes: list[list[tuple[float, float]]]
) -> None:
    opened(browser, page)
    for number, stroke in enumerate(strokes):
        (browser.touch if number else browser.drag)("#paper", stroke)
    settle(browser)
    assert_answers_like(browser, runs, drawn(browser))
    milliseconds = browser.run("views.map((view) => view.milliseconds)")
    assert max(milliseconds) < 1000
    shown = browser.run("[...document.querySelectorAll('.answer')].map((answer) => answer.firstChild.data.trim())")
    assert shown == [
        run.model().facts.class_names[found.argmax()] for run, found in zip(runs, answers(browser), strict=True)
    ]
    lefts = "[...document.querySelector('.bars').querySelectorAll('.bar')].map((bar) => bar.getBoundingClientRect().x)"
    assert browser.run(f"new Set({lefts}).size") == 1, "the bars begin at one line"
    browser.run_until("announcement.textContent.includes('per cent')")
    # A network of so few updates may need no part of a figure at all, and says so.
    assert re.search("Hiding the|No part is needed", browser.run("document.querySelector('.occlusion').ariaLabel"))
    assert "32 units of the last hidden layer" in browser.run("document.querySelector('.units').ariaLabel")
    assert browser.complaints == []


def test_clearing_and_undoing_empty_the_page(browser: Any, page: Path) -> None:
    opened(browser, page)
    browser.drag("#paper", STROKES["1"][0])
    settle(browser)
    first = answers(browser)
    browser.drag("#paper", [(0.2, 0.5), (0.8, 0.5)])
    settle(browser)
    assert not np.allclose(answers(browser)[0], first[0])
    browser.click("#undo")
    settle(browser)
    assert np.allclose(answers(browser)[0], first[0])
    browser.click("#clear")
    settle(browser)
    assert browser.run("views.map((view) => view.probabilities)") == [None, None]
    assert browser.run("document.querySelector('.answer').textContent") == "–"


def test_the_keyboard_draws(browser: Any, page: Path, runs: list[Run]) -> None:
    opened(browser, page)
    browser.run("paper.focus()")
    for key, times in (("ArrowUp", 10), (" ", 1), ("ArrowDown", 20), (" ", 1), ("ArrowRight", 3)):
        browser.press(key, times)
    settle(browser)
    assert_answers_like(browser, runs, drawn(browser))
    dark = np.asarray(drawn(browser).convert("L")) < 128
    assert (dark.any(1).sum(), dark.any(0).sum()) == (180, 20), "a line of 160 pixels and the pen's width"
    browser.press("Delete")
    settle(browser)
    assert browser.run("views[0].probabilities") is None


def noisy_picture(*, size: tuple[int, int], dark: int, light: int, tint: Sequence[float]) -> Image.Image:
    """A digit on paper that is lit from one side, with the noise of a camera."""
    random = np.random.default_rng(size[0])
    figure = Image.new("L", size, 0)
    points = [(size[0] * x, size[1] * y) for x, y in STROKES["3"][0]]
    ImageDraw.Draw(figure).line(points, fill=255, width=max(min(size) // 12, 2), joint="curve")
    share = np.asarray(figure.filter(ImageFilter.GaussianBlur(1)), dtype=float) / 255
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    paper = light - 40 * rows / size[1] + 20 * columns / size[0]
    grey = paper * (1 - share) + dark * share + random.normal(0, 3, share.shape)
    return Image.fromarray((grey[..., None] * np.array(tint)).clip(0, 255).astype(np.uint8))


def transparent_picture() -> Image.Image:
    rgba = np.zeros((90, 120, 4), dtype=np.uint8)
    rgba[20:70, 50:70] = (0, 40, 160, 255)
    return Image.fromarray(rgba)


PICTURES = {
    "small": lambda: noisy_picture(size=(40, 52), dark=30, light=220, tint=(1, 1, 1)),
    "photo": lambda: noisy_picture(size=(900, 1201), dark=60, light=210, tint=(1, 0.93, 0.8)),
    "wide": lambda: noisy_picture(size=(700, 333), dark=230, light=60, tint=(0.9, 1, 1)),
    "transparent": transparent_picture,
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_files_are_answered_as_predict_answers(
    browser: Any, page: Path, runs: list[Run], tmp_path: Path, name: str
) -> None:
    PICTURES[name]().save(tmp_path / "picture.png")
    opened(browser, page)
    browser.choose_file("#file", tmp_path / "picture.png")
    browser.run_until("views[0].probabilities")
    settle(browser)
    assert_answers_like(browser, runs, tmp_path / "picture.png")
    assert browser.complaints == []


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=[pytest.mark.long] * (name == "photo")) for name in PICTURES), "grey"]
)
def test_pictures_are_converted_to_the_same_pixels(browser: Any, page: Path, name: str) -> None:
    picture = Image.new("RGB", (50, 60), "grey") if name == "grey" else PICTURES[name]()
    opened(browser, page)
    content = base64.b64encode(picture.convert("RGBA").tobytes()).decode()
    browser.run(f"window.content = Uint8Array.from(atob('{content}'), (letter) => letter.charCodeAt(0))")
    for shape, margin in product([(1, 28, 28), (3, 32, 32), (3, 40, 30)], [4, 0, None]):
        found = browser.run(
            f"(() => {{ const picture = {{data: content, width: {picture.width}, height: {picture.height}}}; try {{"
            f" return [...asDataSetImage(picture, {list(shape)}, {json.dumps(margin)})];"
            " } catch (error) { return error.message; } })()"
        )
        if isinstance(found, str):
            with pytest.raises(DataError, match=f"^{found}$"):
                as_data_set_image(picture, image_shape=shape, margin_pixels=margin)
            continue
        expected = as_data_set_image(picture, image_shape=shape, margin_pixels=margin).flatten().tolist()
        # Sums in another order can round one grey value up instead of down.
        assert np.abs(np.subtract(found, expected)).max() <= 1


def test_a_file_that_is_no_picture_is_said_to_be_none(browser: Any, page: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    opened(browser, page)
    browser.choose_file("#file", tmp_path / "notes.txt")
    browser.run_until("seenNote.textContent.startsWith('notes.txt can')")


def test_the_game_counts_who_is_right(browser: Any, page: Path, runs: list[Run]) -> None:
    opened(browser, page)
    truth = browser.run("facts.test_labels.slice()")
    images = browser.run("[...testImages]")
    pixels = np.array(images, dtype=np.uint8).reshape(-1, 1, 28, 28)
    right = [0, 0, 0]
    for guess in (3, 7):
        browser.run("game.next()")
        index = browser.run("game.index")
        browser.click(f"#choices button:nth-child({guess + 1})")
        verdict = browser.run_until("document.getElementById('verdict').textContent")
        assert verdict.startswith("Right" if truth[index] == guess else f"It is {truth[index]}.")
        right[0] += guess == truth[index]
        for number, run in enumerate(runs, 1):
            answer = run.model().facts.class_names[run.predict(pixels[index]).argmax()]
            assert f"says {answer} (" in verdict
            right[number] += answer == str(truth[index])
    score = browser.run_until("document.getElementById('score').textContent")
    names = browser.run("facts.networks.map((network) => network.name)")
    assert score == f"Right of 2: you {right[0]}, {names[0]} {right[1]}, {names[1]} {right[2]}."


def test_photographs_have_no_pen_but_test_images(browser: Any, colour_run: Run, pictures: Path, tmp_path: Path) -> None:
    page = demo([colour_run], tmp_path)
    opened(browser, page)
    assert browser.run("document.getElementById('pen-width')") is None
    assert "No picture leaves your device." in browser.run("document.body.innerText")
    browser.click("#images button:nth-child(3)")
    settle(browser)
    pixels = np.array(browser.run("[...testImage(2)]"), dtype=np.uint8).reshape(3, 32, 32)
    assert np.abs(answers(browser)[0] - colour_run.predict(pixels)[0].numpy()).max() <= 1e-3
    shown = browser.run("seenNote.textContent")
    assert shown.startswith("Test image 3. Its true class is ")
    picture = Image.open(pictures / "cat" / "3.bmp").resize((90, 70))
    picture.save(tmp_path / "picture.png")
    browser.choose_file("#file", tmp_path / "picture.png")
    settle(browser)
    browser.run_until("seenNote.textContent.startsWith('The centre')")
    settle(browser)
    assert_answers_like(browser, [colour_run], tmp_path / "picture.png")
    assert browser.complaints == []


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_fits_the_screen_in_both_colours(browser: Any, page: Path, width: int) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        opened(browser, page, width=width, phone=width < 500)
        assert browser.run("document.documentElement.scrollWidth") <= width
        backgrounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        heights = (
            "[...document.querySelectorAll('main section:not(:last-of-type) button, .file')].map(e => e.offsetHeight)"
        )
        assert min(browser.run(heights)) >= 40, "fingers need large buttons"
    browser.colours("light")
    assert len(set(backgrounds)) == 2


def test_everything_that_can_be_used_has_a_name_and_a_visible_focus(browser: Any, page: Path) -> None:
    opened(browser, page)
    used = "[...document.querySelectorAll('button, input, canvas[tabindex], summary')]"
    names = browser.run(f"{used}.map((e) => (e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || '').trim())")
    assert len(names) > 60
    assert "" not in names
    browser.run("paper.focus()")
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "clear"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert (
        browser.run(
            "[...document.querySelectorAll('canvas')].filter((e) => !e.ariaLabel && !e.closest('button')).length"
        )
        == 0
    )
