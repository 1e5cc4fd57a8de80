"""``digitlab train`` and ``python train.py``: trains one network, or with -m a sweep of many.

Hydra reads the command line, so this module has no Typer command except an entry for ``digitlab --help``.
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

# Anything else is imported where it is used, so that --help and mistakes in the command are answered quickly.
from digitlab.config.command_line import read_arguments
from digitlab.config.compose import COMPOSITION_ERRORS, CONF, composition_error, register_resolvers
from digitlab.config.quoting import unquote
from digitlab.core.errors import DigitlabError
from digitlab.core.exit import exit_with, sigterm_exits
from digitlab.core.files import flush_stdout

register_resolvers()
# With this setting Hydra raises exceptions. Without it, Hydra would print its own report and exit with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float:
    from digitlab.sweeps.job_failures import in_sweep, report_failure
    from digitlab.sweeps.resume import complete_run

    with report_failure():
        if in_sweep():
            return complete_run(config)
        # Imported here, so that --cfg and tab completion do not import torch.
        from digitlab.results.table import print_result
        from digitlab.training import train

        outcome = train(config)
        with flush_stdout():
            print_result(outcome.folder, outcome.result)
        return outcome.monitored


def train_or_sweep() -> None:
    from digitlab.api import resolvers
    from digitlab.sweeps.session import report_sweep_at_end

    resolvers.register_resolvers()
    with report_sweep_at_end():
        main()


def resume_run(folder: str, arguments: list[str]) -> None:
    from digitlab.api.resume_folder import check_resume_folder

    check_resume_folder(folder)
    from digitlab.results.table import print_result
    from digitlab.training.resuming import resume

    outcome = resume(folder, arguments)
    print_result(outcome.folder, outcome.result)


def resolve_auto_resume(arguments: list[str]) -> list[str]:
    """Return the arguments with ``resume=auto`` replaced by the folder of a run, or removed if there is no run.

    If that run has finished, print its result and end the process.
    """
    from digitlab.api.auto_resume import find_resume_target
    from digitlab.results.table import print_result

    target = find_resume_target(arguments)
    if target.run is not None and target.finished:
        print_result(target.run.path, target.run.read_result())
        sys.exit(0)
    return target.arguments if target.run is None else [f"resume={target.run.path}"]


def resume_value(arguments: list[str]) -> str:
    """Return the value of ``resume=``, or ``null`` if it is not among the arguments."""
    value = dict(argument.split("=", 1) for argument in arguments if "=" in argument).get("resume", "null")
    return unquote(value)


def run() -> None:
    """Run the command. Exit codes: 0 finished, 2 invalid configuration, 130 or 143 after a signal, 1 other failures."""
    arguments = sys.argv[1:]
    try:
        with sigterm_exits(), flush_stdout():
            if resume_value(arguments) == "auto":
                # Other processes of this run (DDP) start with sys.argv, so it must contain the result of the search.
                arguments = sys.argv[1:] = resolve_auto_resume(arguments)
            if resume_value(arguments) != "null":
                resume_run(resume_value(arguments), arguments)
                return
            arguments = sys.argv[1:] = read_arguments(arguments)
            if "--help" in arguments or "-h" in arguments:
                from digitlab.api.show_help import help_text

                print(help_text(arguments))
                return
            train_or_sweep()
    except DigitlabError as error:
        exit_with(error)
    except COMPOSITION_ERRORS as error:
        exit_with(composition_error(error, [argument for argument in arguments if not argument.startswith("-")]))
    except KeyboardInterrupt:
        # Ctrl-C before the run has installed its signal handlers. There is nothing to save yet.
        sys.exit(130)
    finally:
        # Only a run that has started has a lock. Importing its module for a mistake in the command would take time.
        if "digitlab.results.lock" in sys.modules:
            sys.modules["digitlab.results.lock"].remove_unbegun()


def run_as_subcommand() -> None:
    """Run ``digitlab train ARGUMENTS``: remove the word ``train``, and name a script that starts the same command.

    Lightning starts the other processes of a run (DDP) with the script and the arguments in ``sys.argv``.
    """
    sys.argv = [str(Path(__file__).parent / "script" / "start.py"), *sys.argv[2:]]
    run()
