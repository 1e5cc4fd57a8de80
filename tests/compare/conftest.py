"""Finished runs that are written by hand, because comparisons read only configurations and results."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import compose

DEFAULTS = {"data": "mnist", "model": "mlp", "optimizer": "adam"}
composed = cache(lambda overrides: compose(overrides))


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """``write_run(folder, "seed=1", accuracy=0.9)`` writes a finished run; ``status`` and ``scores`` are optional."""

    def write(
        folder: Path, *overrides: str, accuracy: float | None = None, test: float = 0.5, status: str = "finished",
        metrics: Mapping[str, float] | None = None, scores: np.ndarray | None = None,
    ) -> Path:  # fmt: skip
        # Composing takes 0.1 s, so groups are composed once and the numbers are set afterwards.
        groups = tuple(override for override in overrides if "." not in override.partition("=")[0])
        config = composed(tuple(each for each in groups if not each.startswith("seed=")))
        config = OmegaConf.merge(config, OmegaConf.from_dotlist([each for each in overrides if each not in groups]))
        seed = next((each for each in overrides if each.startswith("seed=")), "seed=0")
        config.seed = int(seed.partition("=")[2])
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(config, folder / ".hydra" / "config.yaml")
        choices = DEFAULTS | dict(each.partition("=")[::2] for each in groups)
        lines = "".join(f"    {name}: {option}\n" for name, option in choices.items())
        (folder / ".hydra" / "hydra.yaml").write_text(f"runtime:\n  choices:\n{lines}")
        content: dict[str, Any] = {"status": status}
        content["metrics"] = {"val/accuracy": accuracy, "test/accuracy": test} if metrics is None else metrics
        (folder / "result.json").write_text(json.dumps(content))
        if scores is not None:
            np.savez(folder / "test_predictions.npz", probabilities=scores)
        return folder

    return write
