"""``digitlab train`` and ``python train.py``: trains one network, or with -m a sweep of many.

Hydra reads the command line of these commands, not Typer. The Typer command ``train`` in ``cli.commands`` exists only
for ``digitlab --help``.
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

# All other modules are imported inside functions, so that --help and error messages for wrong arguments appear quickly.
from digitlab.config.command_line import read_arguments
from digitlab.config.compose import COMPOSITION_ERRORS, CONF, composition_error, register_resolvers
from digitlab.config.quoting import unquote
from digitlab.core.errors import DigitlabError
from digitlab.core.exit import exit_with, sigterm_exits
from digitlab.core.files import flush_stdout, require_current_folder
from digitlab.core.streams import open_missing_streams

register_resolvers()
# With this setting Hydra raises exceptions. Without it, Hydra would print its own report and exit with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float:
    """Train the run of one Hydra job, and return the monitored value, which Hydra's sweepers optimise."""
    from digitlab.sweeps.job_failures import in_sweep, report_failure
    from digitlab.sweeps.resume import complete_run

    with report_failure():
        if in_sweep():
            return complete_run(config)
        # These imports load torch, which --cfg and tab completion do not need.
        from digitlab.results.table import print_result
        from digitlab.training import train

        outcome = train(config)
        with flush_stdout():
            print_result(outcome.folder, outcome.result)
        return outcome.monitored


def train_or_sweep() -> None:
    """Let Hydra read ``sys.argv`` and call ``main``, once or for each run of a sweep; then report the sweep."""
    from digitlab.api import resolvers
    from digitlab.sweeps.session import report_sweep_at_end

    resolvers.register_resolvers()
    with report_sweep_at_end():
        main()


def resume_run(folder: str, arguments: list[str]) -> None:
    """Continue the run in ``folder`` and print its result; ``arguments`` are those of the command."""
    from digitlab.api.resume_folder import check_resume_folder

    # Before the other imports, which load torch: a wrong folder is reported at once.
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
    open_missing_streams()
    try:
        _run()
    except KeyboardInterrupt:
        # Ctrl-C before the run has installed its signal handlers. There is nothing to save yet.
        sys.exit(130)


def _run() -> None:
    arguments = sys.argv[1:]
    try:
        with sigterm_exits(), flush_stdout():
            require_current_folder()
            if resume_value(arguments) == "auto":
                # DDP starts the other processes of a run with sys.argv. They must resume the folder found here.
                arguments = sys.argv[1:] = resolve_auto_resume(arguments)
            if resume_value(arguments) != "null":
                resume_run(resume_value(arguments), arguments)
                return
            arguments = sys.argv[1:] = read_arguments(arguments)
            if "--version" in arguments:
                from digitlab.cli import print_version

                print_version()
                return
            if "--help" in arguments or "-h" in arguments:
                from digitlab.api.show_help import help_text

                print(help_text(arguments))
                return
            train_or_sweep()
    except DigitlabError as error:
        exit_with(error)
    except COMPOSITION_ERRORS as error:
        exit_with(composition_error(error, [argument for argument in arguments if not argument.startswith("-")]))
    finally:
        # If the command failed after it had made and locked a run folder, but before training, remove this folder. If
        # the module is not loaded, there is no lock, and importing it would only delay the error message.
        if "digitlab.results.lock" in sys.modules:
            sys.modules["digitlab.results.lock"].remove_unstarted_folders()


def run_as_subcommand() -> None:
    """Run ``digitlab train ARGUMENTS``: replace ``digitlab train`` in ``sys.argv`` by a script that calls ``run``.

    Lightning starts the other processes of a run (DDP) with ``sys.argv``, so its first item must be a Python file.
    """
    sys.argv = [str(Path(__file__).parent / "script" / "start.py"), *sys.argv[2:]]
    run()
