"""From ``conf/`` and the command line to a composed configuration, and from its nodes to objects.

Nothing here imports torch, so that ``train.py --help`` and tab completion answer at once.
"""

import inspect
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from digitlab.schema import ConfigError, nearest, refusal

# An installed copy without its project around it (no train.py above src/) works from the current directory.
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
ROOT = _SOURCE_ROOT if (_SOURCE_ROOT / "train.py").exists() else Path.cwd()
CONF = ROOT / "conf"

# A configuration or a checkpoint can come from anyone, and building what it names runs code: only these packages, and
# those in DIGITLAB_ALLOW (comma-separated), may be named by a _target_.
_ALLOWED_PACKAGES = ("digitlab", "torch", "lightning", "torchmetrics")

T = TypeVar("T")


def register_resolvers() -> None:
    """Teach OmegaConf ``${project:data}``, a path beside train.py, and ``${run_suffix:}``, unlike any other run's."""
    OmegaConf.register_new_resolver("project", lambda name: str(ROOT / name), replace=True)
    OmegaConf.register_new_resolver("sweep_name", lambda choice: choice or "sweep", replace=True)
    OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
    # Cached: the folder's name is resolved several times in one run.
    OmegaConf.register_new_resolver("run_suffix", lambda: secrets.token_hex(4), use_cache=True, replace=True)


def _folder_name(overrides: str) -> str:
    # A path may not hold a slash, and file systems end a name at 255 bytes.
    return re.sub(r"[^\w.,=+-]+", "-", overrides)[:150]


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that ``python train.py OVERRIDES`` would run.

    Raises ``ConfigError`` for a key or a name that ``conf/`` does not have.
    """
    register_resolvers()
    with _restored_hydra(), initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
        try:
            return hydra_compose("train", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise hydra_refusal(error) from error


@contextmanager
def _restored_hydra() -> Iterator[None]:
    # Hydra is a global: composing inside a run must leave the run's own in place.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def hydra_refusal(error: Exception) -> ConfigError:
    """What Hydra says over several lines, as one that names the key and the nearest right name."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    if group := re.search(r"Could not find '([^']+)' Available options in '([^']+)': (.*?)(?: Config search path|$)", text):
        name, key, options = group[1].rpartition("/")[2], group[2], group[3].split()
        return ConfigError(key, name, f"must be one of {', '.join(options)}{nearest(name, options)}")
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        return ConfigError(key, _typed_value(key), f"no such key{_nearest_key(key)}")
    if match := re.search(r"In '[^']+': Could not find '([^']+)'", text):
        return ConfigError(*_split(match[1]), "no such file in conf/")
    return ConfigError("", text, "can't be composed")


def _split(name: str) -> tuple[str, str]:
    group, _, option = name.rpartition("/")
    return group, option


def _typed_value(key: str) -> str:
    import sys

    values = [argument.partition("=")[2] for argument in sys.argv[1:] if argument.partition("=")[0] == key]
    return values[0] if values else "?"


def _nearest_key(key: str) -> str:
    keys = [path for path, _ in walk(OmegaConf.to_container(compose(), resolve=False))]
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    return nearest(key, [*keys, *groups])


def walk(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key of a tree of dicts as a dotted path, with its value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path, value
            yield from walk(value, path)


def build(node: Mapping[str, Any], key: str, kind: type[T], **given: Any) -> T:
    """The object that ``node`` describes: its ``_target_`` called with its other entries and with ``given``.

    ``key`` is where the node stands in the configuration. Entries that are nodes themselves are built first. Raises
    ``ConfigError``, naming the key, the value and what is allowed, for a target that is not allowed or no ``kind``, and
    for arguments that the constructor's schema refuses.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(key, node, "must be a node with a _target_")
    target = _class(str(node["_target_"]), f"{key}._target_", kind)
    arguments: dict[str, Any] = {
        name: build(value, f"{key}.{name}", object) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in node.items()
        if name != "_target_"
    }
    names = [name for name in inspect.signature(target).parameters if name not in given]
    for name in arguments:
        if name not in names:
            raise ConfigError(f"{key}.{name}", arguments[name], f"no such key{nearest(name, names)}; there are {', '.join(names)}")
    try:
        return target(**arguments, **given)
    except ValidationError as error:
        raise refusal(error, names=names).under(key) from error
    except ConfigError as error:
        raise error.under(key) from error
    except TypeError as error:
        raise ConfigError(key, node["_target_"], f"does not take these settings: {error}") from error


def _class(target: str, key: str, kind: type[T]) -> type[T]:
    allowed = [*_ALLOWED_PACKAGES, *filter(None, os.environ.get("DIGITLAB_ALLOW", "").split(","))]
    if target.partition(".")[0] not in allowed:
        raise ConfigError(key, target, f"must lie in {', '.join(allowed)}, or in a package named by DIGITLAB_ALLOW")
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(key, target, f"can't be imported: {str(error).splitlines()[0]}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(key, target, f"must be a {kind.__name__}")
    return found


def plain(node: Any, key: str) -> dict[str, Any]:
    """A node of the configuration as plain dicts, lists and values, interpolations resolved.

    Raises ``ConfigError`` where it is no node or an interpolation fails.
    """
    if not OmegaConf.is_dict(node):
        raise ConfigError(key, node, "must be a node with keys of its own")
    try:
        container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(key, "?", str(error).splitlines()[0]) from error
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}
