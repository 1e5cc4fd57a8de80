"""TensorBoard on a finished run in Chromium: curves, images, precision-recall curves, hyper-parameters."""

import re
import subprocess
import sys
import time

import pytest

# Its fixtures take seconds, so one process runs all of these tests.
pytestmark = pytest.mark.xdist_group("tensorboard page")

# All text of the page, including shadow trees, because some of TensorBoard's tabs consist of web components.
TEXT = """(() => {
  const words = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) words.push(node.data.trim());
    if (node.shadowRoot) walk(node.shadowRoot);
    if (!["STYLE", "SCRIPT", "NOSCRIPT"].includes(node.nodeName)) node.childNodes.forEach(walk);
  };
  walk(document.body);
  return words.filter(Boolean);
})()"""
# The widths of the images that the page has loaded.
IMAGES = """(() => {
  const widths = [];
  const walk = (node) => {
    if (node.nodeName === "IMG" && node.complete) widths.push(node.naturalWidth);
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return widths.filter((width) => width > 0);
})()"""


@pytest.fixture(scope="module")
def tensorboard(small_run, tmp_path_factory):
    """The address of a TensorBoard that shows ``small_run`` alone."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(small_run), "--port", "0", "--load_fast=false"]
    # Into a file, because TensorBoard blocks when nobody reads its many messages from a pipe.
    output = tmp_path_factory.mktemp("tensorboard") / "output"
    with output.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while (address := re.search(r"http://\S+", output.read_text())) is None:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield address[0]
        process.kill()


@pytest.fixture
def tab(browser, tensorboard):
    """``tab(name, script, until)`` opens a tab and returns the value of ``script`` once ``until(value)`` is true."""

    def show(name, script, until):
        browser.visit(f"{tensorboard}#{name}")
        deadline = time.monotonic() + 120
        while not until(found := browser.run(script)):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    return show


def test_training_and_validation_curves_are_on_the_page(tab):
    # The curves of training belong to the run itself, those of validation to its part ``val``.
    words = tab("timeseries", TEXT, lambda found: {"accuracy", ".", "val"} <= set(found))
    assert {"loss", "f1", "lr", "images_per_second"} <= set(words)


def test_samples_and_the_confusion_matrix_are_on_the_page(tab):
    tab("images", TEXT, lambda found: {"samples", "confusion_matrix"} <= set(found))
    assert min(tab("images", IMAGES, lambda widths: len(widths) >= 2)) > 100


def test_precision_recall_curves_are_on_the_page(tab):
    tab("pr_curves", TEXT, lambda found: "precision_recall/0" in found)


def test_distributions_of_the_weights_are_on_the_page(tab):
    tab("histograms", TEXT, lambda found: "weights/output.weight" in found)


def test_hyper_parameters_and_the_best_metrics_are_on_the_page(tab):
    words = tab("hparams", TEXT, lambda found: {"optimizer", "batch_size", "Linear"} <= set(found))
    assert any("result/val/accuracy" in word for word in words)
