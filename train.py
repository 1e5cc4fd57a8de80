"""Train one network, or with -m a sweep of them:

    python train.py model=mlp data=cifar10
    python train.py -m optimizer.lr=0.1,0.01 model.dropout=0,0.2
    python train.py resume=outputs/cifar10-mlp/2026-11-21_10-00-00_1a2b3c4d
"""

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from digitlab.config import CONF, hydra_refusal, register_resolvers
from digitlab.schema import DigitlabError

register_resolvers()
# Hydra then raises instead of printing its own report and ending the process with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float:
    # Imported here, so that --help, --cfg and tab completion need no torch.
    from digitlab.results.table import print_result
    from digitlab.training import train

    outcome = train(config)
    print_result(outcome.folder, outcome.result)
    return outcome.monitored


def run() -> None:
    """The exit code is 0 for a finished run, 2 for a bad configuration, 1 for anything else; 130 and 143 for signals."""
    try:
        folder = next((argument.removeprefix("resume=") for argument in sys.argv[1:] if argument.startswith("resume=")), None)
        if folder in (None, "null"):
            main()
        else:
            from digitlab.results.table import print_result
            from digitlab.training.resuming import resume

            outcome = resume(folder, sys.argv[1:])
            print_result(outcome.folder, outcome.result)
    except DigitlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        print(hydra_refusal(error), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
