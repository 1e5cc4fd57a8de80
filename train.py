"""Train one network, or with -m a sweep of them:

python train.py model=mlp data=cifar10
python train.py -m optimizer.lr=0.1,0.01 model.dropout=0,0.2      (again: it goes on where it was stopped)
python train.py resume=outputs/cifar10-mlp/2026-11-21_10-00-00_1a2b3c4d
python train.py model=mlp data=cifar10 resume=auto                (goes on with its newest run, if there is one)
"""

import os
import sys

import hydra
from omegaconf import DictConfig

from digitlab.api import resolvers
from digitlab.config.cli_errors import refuse_two_commands, refuse_unreadable
from digitlab.config.compose import COMPOSITION_ERRORS, CONF, refused, register_resolvers
from digitlab.core.errors import DigitlabError
from digitlab.core.exit import exit_with, sigterm_exits
from digitlab.core.files import flush_stdout
from digitlab.results.lock import remove_unbegun
from digitlab.sweeps.job_failures import in_sweep, report_failure
from digitlab.sweeps.resume import finish
from digitlab.sweeps.session import concluded

register_resolvers()
resolvers.register_resolvers()
# Hydra then raises instead of printing its own report and ending the process with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float:
    with report_failure():
        if in_sweep():
            return finish(config)
        # Imported here, so that --help, --cfg and tab completion need no torch.
        from digitlab.results.table import print_result
        from digitlab.training import train

        outcome = train(config)
        with flush_stdout():
            print_result(outcome.folder, outcome.result)
        return outcome.monitored


def go_on(folder: str, arguments: list[str]) -> None:
    from digitlab.results.table import print_result
    from digitlab.training.resuming import resume

    outcome = resume(folder, arguments)
    print_result(outcome.folder, outcome.result)


def automatic(arguments: list[str]) -> list[str]:
    """The arguments that ``resume=auto`` comes to; a run that has finished is only told of."""
    from digitlab.api.auto_resume import find
    from digitlab.results.table import print_result

    found = find(arguments)
    if found.run is not None and found.finished:
        print_result(found.run.path, found.run.read_result())
        sys.exit(0)
    return found.arguments if found.run is None else [f"resume={found.run.path}"]


def resumed(arguments: list[str]) -> str:
    """The value of ``resume=`` among the arguments; ``null`` where it is not there."""
    return dict(argument.split("=", 1) for argument in arguments if "=" in argument).get("resume", "null")


def run() -> None:
    """Exit codes: 0 for a finished run, 2 for a bad configuration, 130 and 143 after signals, 1 for anything else."""
    arguments = sys.argv[1:]
    try:
        with sigterm_exits(), flush_stdout():
            if resumed(arguments) == "auto":
                # Processes that are launched beside this one read it there.
                arguments = sys.argv[1:] = automatic(arguments)
            if resumed(arguments) != "null":
                go_on(resumed(arguments), arguments)
                return
            refuse_two_commands(arguments)
            # In tab completion, whatever is typed so far may stand.
            if "-sc" not in arguments and "--shell-completion" not in arguments:
                refuse_unreadable((each for each in arguments if "=" in each and not each.startswith("-")), CONF)
            with concluded():
                main()
    except DigitlabError as error:
        exit_with(error)
    except COMPOSITION_ERRORS as error:
        exit_with(refused(error, [argument for argument in arguments if not argument.startswith("-")]))
    except KeyboardInterrupt:
        # Before the run listens for it: there is nothing to save yet.
        sys.exit(130)
    finally:
        remove_unbegun()


if __name__ == "__main__":
    run()
