"""Tiny runs to export, and a Chromium that draws, presses keys, chooses files and shows the dark colours."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import digitlab
from digitlab.api.run import Run
from fixtures.browser import Browser, opened

_TINY = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=1", "data.train_size=200", "data.val_size=100",
    "data.batch_size=50", "test=none", "optimizer.lr=0.05",
)  # fmt: skip


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., Run]:
    """``train_tiny(folder, "model=linear", ...)`` trains four updates and returns the run."""
    return lambda folder, *overrides, **arguments: digitlab.train(*_TINY, *overrides, folder=folder, **arguments)


class DrawingBrowser(Browser):
    """A Chromium with the inputs that the demo page takes."""

    def area(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll an element into view and return its left, top, width and height on the screen."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y, width, height = self.run(
            f"(() => {{ const r = {place}.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }})()"
        )
        return x, y, width, height

    def drag(self, selector: str, points: Sequence[tuple[float, float]]) -> None:
        """Draw with the mouse along points in fractions of an element's width and height."""
        x, y, width, height = self.area(selector)
        places = [(x + width * across, y + height * down) for across, down in points]
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1)]
        for kind, (across, down) in zip(kinds, places, strict=True):
            self._call("Input.dispatchMouseEvent", type=kind, x=across, y=down, button="left", buttons=1, clickCount=1)
        across, down = places[-1]
        self._call("Input.dispatchMouseEvent", type="mouseReleased", x=across, y=down, button="left", clickCount=1)

    def touch(self, selector: str, points: Sequence[tuple[float, float]]) -> None:
        """Draw with a finger along points in fractions of an element's width and height."""
        x, y, width, height = self.area(selector)
        for number, (across, down) in enumerate(points):
            place = {"x": x + width * across, "y": y + height * down}
            self._call("Input.dispatchTouchEvent", type="touchMove" if number else "touchStart", touchPoints=[place])
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, times: int = 1) -> None:
        """Press a key, named as in JavaScript's events."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
        more = {} if text is None else {"text": text}
        code = {" ": 32, "Enter": 13, "Tab": 9}.get(key, 0)
        for _ in range(times):
            self._call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
            self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def choose_file(self, selector: str, path: Path) -> None:
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def colours(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run_until(self, script: str) -> Any:
        """Return the value of an expression once it is true."""
        return self.run(
            "new Promise((resolve, reject) => { const start = Date.now(); const look = () => {"
            f" const value = {script}; if (value) return resolve(value);"
            f" if (Date.now() - start > 30000) return reject(new Error({json.dumps(script)}));"
            " setTimeout(look, 20); }; look(); })"
        )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrawingBrowser]:
    yield from opened(DrawingBrowser, tmp_path_factory.mktemp("chromium"))
