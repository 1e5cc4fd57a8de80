"""Every model of ``conf/model`` trains, is tested, and has the same metrics when its checkpoint is evaluated again.

``make test-minimums`` runs this module with the oldest allowed version of every dependency.
"""

from collections.abc import Callable
from typing import Any

import pytest

from digitlab.config.compose import ROOT, compose
from digitlab.core.logging import quiet_libraries
from digitlab.training.evaluation import evaluate
from digitlab.training.loading import load_classifier, load_data

# Networks that are large by default, made small.
_SMALL = {
    "cnn": ["model.width=2"],
    "fast_cnn": ["model.widths=[4,4]"],
    "torchvision": ["model.name=mobilenet_v3_small"],
}
_MODELS = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))


@pytest.mark.sample(9)
@pytest.mark.parametrize("model", _MODELS)
def test_every_model_trains_and_comes_back_from_its_checkpoint(run: Callable[..., Any], model: str) -> None:
    own = (f"model={model}", "data.val_size=50", "data.batch_size=8", *_SMALL.get(model, ()))
    finished = run(
        *own, "test=last", "trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_test_batches=2"
    )
    folder, metrics = finished.folder, finished.result["metrics"]
    folder.write_config(compose([*own, "trainer=cpu"]), [])
    classifier, data = load_classifier(folder, "last"), load_data(folder)
    data.set_limits(limit_test_batches=2)
    with quiet_libraries():
        again = evaluate(classifier, data, accelerator="cpu")
    assert again == {name: value for name, value in metrics.items() if name.startswith("test/")}
