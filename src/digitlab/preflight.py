"""The check of a composed configuration before Hydra makes the run's folder: a bad one leaves no folder behind.

Hydra imports and calls it at the start of a solo run (``hydra.callbacks.preflight`` in ``conf/train.yaml``). The jobs of
a sweep are checked at the head of ``train()``.
"""

import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from digitlab.schema import DigitlabError


class Preflight(Callback):
    """Ends the process with one line on stderr where the configuration is refused."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Imported here, as Hydra makes this object for --help too, which must answer without torch.
        from digitlab.training.experiment import Experiment

        try:
            Experiment.from_config(config)
        except DigitlabError as error:
            # Hydra turns any other exception of a callback into a warning and goes on.
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
