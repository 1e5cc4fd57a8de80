"""Run folders that the real writer fills without training, and a headless Chromium that opens reports."""

import base64
import json
import math
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import compose
from digitlab.results.folder import RunFolder
from digitlab.results.writer import RunWriter
from digitlab.training import train

EPOCHS = 4


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    """``make_run(folder, "optimizer.lr=0.1", accuracy=0.9)`` writes a run of four epochs, without checkpoints.

    ``epochs=0``: a run that has just started. ``result=False``: an unfinished run. ``error``: a failed run.
    """

    def make(
        path: Path, *overrides: str, accuracy: float = 0.9, epochs: int = EPOCHS, result: bool = True, error: str = ""
    ) -> RunFolder:
        folder, config = RunFolder(path), compose(overrides)
        _write_configuration(folder, config, overrides)
        writer = RunWriter(folder, config={str(k): v for k, v in OmegaConf.to_container(config, resolve=True).items()})
        for epoch in range(1, epochs + 1):
            value = accuracy * (1 - math.exp(-epoch))
            row = {"epoch": epoch, "step": 100 * epoch, "lr": 0.1, "images_per_second": 1e4, "train_seconds": 1.5}
            writer.epoch(row | {f"{split}/{name}": v for split in ("train", "val") for name, v in _metrics(value)})
        if result:
            metrics = {f"{split}/{name}": v for split in ("val", "test") for name, v in _metrics(accuracy)}
            writer.confusion(torch.eye(10, dtype=torch.int64) * 90 + 1, [str(digit) for digit in range(10)])
            writer.result(_result(overrides, metrics=metrics, epochs=epochs, error=error), step=1)
        writer.close()
        return folder

    return make


def _write_configuration(folder: RunFolder, config: DictConfig, overrides: tuple[str, ...]) -> None:
    hydra = folder.config.parent
    hydra.mkdir(parents=True)
    OmegaConf.save(config, folder.config)
    OmegaConf.save(list(overrides), folder.overrides_file)
    names = {"data": "mnist", "model": "mlp"} | dict(override.split("=", 1) for override in overrides)
    choices = {group: names[group] for group in ("data", "model")}
    OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, hydra / "hydra.yaml")


def _metrics(accuracy: float) -> list[tuple[str, float]]:
    return [("accuracy", accuracy), ("loss", 2 * (1 - accuracy)), ("f1", accuracy - 0.01)]


def _result(overrides: tuple[str, ...], *, metrics: dict[str, float], epochs: int, error: str) -> dict[str, Any]:
    result = {
        "status": "failed" if error else "finished", "metrics": metrics, "best_epoch": epochs, "epochs": epochs,
        "train_seconds": 6.0, "images_per_second": 1e4, "parameters": 7850, "seed": 0,
        "split_fingerprint": "0123456789abcdef", "overrides": list(overrides),
        "command": " ".join(["python train.py", *overrides]), "versions": {"torch": torch.__version__},
        "git_commit": "0" * 40, "hardware": {"cpu": "a processor", "device": "cpu"},
    }  # fmt: skip
    return result | ({"error": error} if error else {})


@pytest.fixture(scope="session")
def hundred_runs(make_run: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 100 runs with random accuracies and learning rates; run 7 is unfinished."""
    root = tmp_path_factory.mktemp("hundred")
    first = make_run(root / "base", "seed=0", "optimizer.lr=0.5")
    result, order = first.read_result(), random.Random(0)
    for number in range(100):
        run = RunFolder(root / "sweep" / str(number))
        shutil.copytree(first.path, run.path, ignore=shutil.ignore_patterns("*tfevents*"))
        accuracy, rate = round(order.uniform(0.5, 0.99), 4), round(order.uniform(0.001, 1), 5)
        metrics = dict.fromkeys(result["metrics"], accuracy)
        run.result.write_text(json.dumps(result | {"metrics": metrics}))
        run.config.write_text(run.config.read_text().replace("lr: 0.5", f"lr: {rate}"))
        run.overrides_file.write_text(f"- seed={number}\n- optimizer.lr={rate}\n")
    RunFolder(root / "sweep" / "7").result.unlink()
    return root / "sweep"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear network that was trained on 500 images of MNIST and tested on some hundreds."""
    path = tmp_path_factory.mktemp("small") / "run"
    small = ["trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2", "trainer.limit_test_batches=5"]
    overrides = ("model=linear", "data.train_size=500", "data.val_size=200")
    config = compose([*small, *overrides])
    _write_configuration(RunFolder(path), config, overrides)
    train(config, folder=path, overrides=overrides)
    return path


class Browser:
    """Controls Chromium with the DevTools protocol over two pipes; a zero byte ends each JSON message.

    ``complaints`` are console errors and warnings, uncaught exceptions, and network requests.
    """

    def __init__(self, profile: Path) -> None:
        to_chromium, self._send = os.pipe()
        self._receive, from_chromium = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
        script = f'exec chromium "$@" --remote-debugging-pipe 3<&{to_chromium} 4>&{from_chromium}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *options], pass_fds=(to_chromium, from_chromium),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_chromium)
        os.close(from_chromium)
        self._buffer, self._number, self._session = b"", 0, None
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, path: Path, *, width: int = 1280, phone: bool = False) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        self.visit(path.as_uri())

    def visit(self, address: str) -> None:
        """Load a page and wait until it is complete.

        The empty page in between forces a reload if two addresses differ only in their fragments.
        """
        for url in ("about:blank", address):
            self._events.clear()
            loader = self._call("Page.navigate", url=url)["loaderId"]
            deadline = time.monotonic() + 30
            while not any(self._loaded(event, loader) for event in self._events):
                assert time.monotonic() < deadline, f"{url} does not load"
                self._events.append(self._message())

    @staticmethod
    def _loaded(event: dict[str, Any], loader: str) -> bool:
        """Check that the event ends this navigation, not an earlier one."""
        return (
            event["method"] == "Page.lifecycleEvent"
            and event["params"]["loaderId"] == loader
            and event["params"]["name"] == "load"
        )

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression on the page; wait for promises."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.run(f"(() => {{ const r = {place}.getBoundingClientRect(); "
                        "return [r.x + r.width / 2, r.y + r.height / 2]; })()")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        size = self.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        image = self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))

    def print_pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    @property
    def complaints(self) -> list[str]:
        found = []
        for event in self._events:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown" or (
                method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning")
            ):
                found.append(json.dumps(params))
            elif method == "Runtime.consoleAPICalled":
                found.append(json.dumps(params["args"]))
            elif method == "Network.requestWillBeSent" and params["request"]["url"].startswith(("http", "ws", "//")):
                found.append(params["request"]["url"])
        return found

    def close(self) -> None:
        os.close(self._send)
        os.close(self._receive)
        self._process.terminate()
        self._process.wait(10)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._receive, 1 << 16)
            assert received, "Chromium has gone"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium is installed (on Debian and Ubuntu: apt install chromium)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
