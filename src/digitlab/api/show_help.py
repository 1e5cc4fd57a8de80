"""The text of ``train.py --help``. Hydra's own help lists the options of every group many times and takes seconds."""

from collections.abc import Sequence

from omegaconf import OmegaConf

from digitlab.config.compose import compose
from digitlab.config.place import train_command


def help_text(arguments: Sequence[str]) -> str:
    """Return the help text with the configuration that the overrides among ``arguments`` compose.

    Raises ``ConfigError`` if an override is invalid.
    """
    config = compose([argument for argument in arguments if not argument.startswith("-")], with_hydra=True)
    # Only the template of the help is resolved. The settings are shown as they are written, with their ``${…}``.
    template = str(config.hydra.help.template).replace("python train.py", " ".join(train_command()))
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return template.replace("$CONFIG", OmegaConf.to_yaml(shown))
