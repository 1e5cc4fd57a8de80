"""Fixtures for the fault tests: prepared runs on a tiny data set, and a small disk that can be full or read-only."""

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import open_dict

from digitlab.config.compose import compose
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder

_TINY = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=4", "trainer.chunk_length=2",
    "early_stopping=null", "model.hidden=[64]", "data.val_size=20", "data.batch_size=10", "ema.decay=0.9",
)  # fmt: skip
_OF_TIME = ("train_seconds", "images_per_second", "epoch_seconds")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The configuration node of a data set with 100 training and 20 test images of noise."""
    folder, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    files = {}
    for part, count in (("train", 100), ("test", 20)):
        for kind, shape in (("images", (count, 28, 28)), ("labels", (count,))):
            values = torch.randint(3, shape, generator=generator, dtype=torch.uint8)
            path = folder / f"{part}-{kind}"
            path.write_bytes(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.numpy().tobytes())
            files[f"{part}_{kind}"] = str(path)
    return {"_target_": "digitlab.data.sources.IdxSource", "name": "noise", "class_names": ["a", "b", "c"], **files}


@pytest.fixture(scope="session")
def ready(source: dict[str, object]) -> Callable[..., RunFolder]:
    """``ready(path, ...)`` prepares a folder in which ``resume=path`` starts a run."""

    def prepare(path: Path, *overrides: str) -> RunFolder:
        config = compose([*_TINY, *overrides])
        with open_dict(config):
            config.data.source = source
        run = RunFolder(path)
        run.write_config(config, [])
        return run

    return prepare


@pytest.fixture
def left() -> Callable[[RunFolder], dict[str, Any]]:
    """``left(run)`` reads everything that a run wrote and that must not depend on when it was stopped."""

    def timeless(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.dtype, value.tolist()
        if isinstance(value, dict):
            return {key: timeless(entry) for key, entry in value.items() if key not in (*_OF_TIME, "events")}
        return [timeless(entry) for entry in value] if isinstance(value, list | tuple) else value

    def read(run: RunFolder) -> dict[str, Any]:
        rows = run.metrics.read_text(encoding="utf-8").splitlines()
        result = run.read_result()
        return {
            "last": timeless(read_checkpoint(run.last)), "best": timeless(read_checkpoint(run.best)),
            "epochs": [row.split(",")[:2] for row in rows], "status": result["status"], "metrics": result["metrics"],
            "leftovers": [str(path) for path in run.path.rglob(".*") if path.name != ".hydra"],
        }  # fmt: skip

    return read


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """``disk("size=2m")`` mounts an empty file system at ``tmp_path/disk``; ``disk("remount,ro")`` changes it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> None:
        nonlocal mounted
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        if done.returncode and not mounted:
            pytest.skip(f"only root can mount a file system: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=600)


def fill(folder: Path) -> Path:
    """Write a file that takes all free space on the disk of ``folder``; returns its path."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(os.urandom(size)) == size:
                    pass
            except OSError:
                continue
    return path


@pytest.fixture
def full() -> Callable[[Path], Path]:
    """``full(folder)`` fills the disk of ``folder`` and returns the file; remove it to free the space."""
    return fill
