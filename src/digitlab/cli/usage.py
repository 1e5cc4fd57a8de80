"""Turns a wrong command line of ``digitlab`` into one line that says what to type. ``digitlab.cli.main`` prints it.

Typer would print its usage and a box of three lines.
"""

import re
import sys
from typing import Any

from digitlab.config.place import train_command

# Options that other programs have, and those that these commands have instead.
_OTHER_OPTIONS = {
    ("export", "--format"): "--to", ("demo", "--output"): "--out", ("report", "--output"): "--out",
    ("figures", "--output"): "--out", ("export", "--output"): "--out", ("explain", "--output"): "--out",
    ("compare", "--output"): "--figure", ("compare", "--out"): "--figure", ("compare", "--filter"): "--where",
    ("compare", "--by"): "--key", ("runs", "--order"): "--sort", ("runs", "--sort-by"): "--sort",
    ("watch", "--logdir"): "--root", ("watch", "--dir"): "--root", ("watch", "--browser"): "--open",
    ("sweep", "--latex"): "--table latex", ("sweep", "--csv"): "--table csv",
    ("evaluate", "--ood"): "--out-of-distribution", ("evaluate", "--dataset"): "--data",
    ("evaluate", "--gpu"): "--device cuda", ("figures", "--name"): "--only",
}  # fmt: skip
# Names that other programs give to these commands.
_OTHER_NAMES = {
    "list": "runs", "ls": "runs", "test": "evaluate", "plot": "figures", "draw": "figures", "classify": "predict",
    "fit": "train", "new": "init", "serve": "watch", "dashboard": "watch", "onnx": "export", "status": "watch",
    "accuracy": "evaluate", "score": "evaluate", "data": "show",
}  # fmt: skip
# Commands that digitlab does not have, and what to do instead.
_OTHER_WAYS = {
    "rm": "a run is a folder: rm -r RUN_FOLDER removes it", "delete": "a run is a folder: rm -r RUN_FOLDER removes it",
    "clean": "all runs are folders in outputs/", "stop": "Ctrl-C in its terminal stops a training and saves it",
    "resume": "write {train} resume=RUN_FOLDER", "config": "write {train} --cfg job",
    "tensorboard": "write make tensorboard",
}  # fmt: skip


def is_usage_error(error: Exception) -> bool:
    """Whether ``error`` is one that Typer raises for a wrong command line.

    Some versions of Typer have these classes from Click and others have copies of them, so no class is named here.
    """
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def usage_line(error: Any) -> str:
    """Return the line for a usage error; for a command without any arguments, its help text."""
    context = getattr(error, "ctx", None)
    # An option without its value has no context.
    command = " ".join(["digitlab", *sys.argv[1:2]]) if context is None else str(context.command_path)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        return str(context.get_help())
    message = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    # Typer suggests the command with the most similar letters. The command with this meaning is the better answer.
    known = "|".join((*_OTHER_NAMES, *_OTHER_WAYS))
    message = re.sub(rf"^(No such command '(?:{known})')\. Did you mean .*", r"\1", message)
    message = re.sub(
        r"^Invalid value for '(--[\w-]+)': Input should be (a valid \w+|[^,;]*)[^;]*$", _with_value, message
    )
    return f"{command}: {message}; {_hint(message) or f'{command} --help explains it'}"


def _with_value(match: re.Match[str]) -> str:
    """Return the message about an option that ``match`` holds, with the value that was typed, which it leaves out."""
    option, arguments = match[1], [*sys.argv, ""]
    attached = next((each.partition("=")[2] for each in arguments if each.startswith(f"{option}=")), None)
    value = attached or (arguments[arguments.index(option) + 1] if option in sys.argv else "?")
    return f"{option}={value}: must be {match[2]}"


def _hint(message: str) -> str | None:
    """Return what the user may have meant by a command or option that does not exist; None for other messages."""
    train = " ".join(train_command())
    if (extra := re.match(r"Got unexpected extra arguments?\(?s?\)? \((\S+)", message)) is not None:
        return _extra_hint(extra[1].rstrip(")"))
    # Of the options with a list of allowed values, only this one can be repeated.
    if re.search(r"'--what': '\S+,\S+' is not one of", message):
        return "give the option once for each value"
    match = re.match(r"No such (?:command|option:?) '?([^' ]+)", message)
    if match is None:
        return None
    name = match[1].partition("=")[0] if match[1].startswith("--") else match[1]
    if (option := _OTHER_OPTIONS.get((sys.argv[1], name))) is not None:
        return f"write {option}"
    if name in ("-m", "--multirun") or "=" in match[1].lstrip("-"):
        return _settings_hint()
    if name in ("help", "-h", "-help"):
        return f"write {' '.join(['digitlab', *[word for word in sys.argv[1:2] if word != name]])} --help"
    if name in ("version", "-v", "-V"):
        return "write digitlab --version"
    if name in _OTHER_WAYS:
        return _OTHER_WAYS[name].format(train=train)
    return f"did you mean {_OTHER_NAMES[name]}?" if name in _OTHER_NAMES else None


def _settings_hint() -> str:
    return f"settings of a training belong after {' '.join(train_command())}"


def _extra_hint(word: str) -> str | None:
    """Return what the user may have meant by ``word``, an argument too many."""
    command = sys.argv[1]
    if command == "evaluate" and word.startswith("data="):
        return f"write --data {word.partition('=')[2]}"
    if "=" in word:
        return _settings_hint()
    if command == "watch":
        return f"write digitlab watch {'--port' if word.isdecimal() else '--root'} {word}"
    if command == "sweep":
        return "digitlab compare compares several sweeps"
    return "give one run at a time" if command in ("figures", "evaluate", "export") else None
