"""Composes the configuration from ``conf/`` and the command line, and builds objects from its nodes (mappings).

``train.py`` and all packages above this one use it. It does not import torch: ``train.py --help`` must answer quickly.
"""

import copy
import inspect
import os
import secrets
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError

from digitlab.config.cli_errors import check_overrides, explain_hydra_error, group_names, group_table
from digitlab.config.given import GIVEN, GivenNetwork, recall
from digitlab.config.metrics import metric_direction
from digitlab.config.place import own_conf, packaged_conf, project_root
from digitlab.config.quoting import quote_path
from digitlab.config.suggestions import nearest, unknown
from digitlab.config.values import unresolved
from digitlab.core.errors import ConfigError, DigitlabError

# The folder that holds data/ and outputs/, the folder of digitlab's configuration, and the one of the configuration
# in the user's project, or None.
ROOT = project_root()
CONF = packaged_conf()
OWN_CONF = own_conf(ROOT)

# A configuration or a checkpoint can come from anyone, and building a _target_ runs its code. Therefore a _target_ must
# be in one of these packages, or in a package listed in the environment variable DIGITLAB_ALLOW (comma-separated).
_ALLOWED_PACKAGES = ("digitlab", "torch", "lightning", "torchmetrics")
_ALLOWED_BY_USER = "DIGITLAB_ALLOW"

# The exceptions that composing raises if a file or an override is wrong.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)

T = TypeVar("T")


def register_resolvers() -> None:
    """Register what ``${…}`` calls in ``conf/``: ``${project:data}``, for example, becomes the path of data/."""
    OmegaConf.register_new_resolver("project", lambda name: str(ROOT / name), replace=True)
    OmegaConf.register_new_resolver("groups", lambda: group_table(*filter(None, [CONF, OWN_CONF])), replace=True)
    OmegaConf.register_new_resolver("direction", lambda metric: metric_direction(str(metric)), replace=True)
    # Cached, because Hydra resolves the name of the run folder several times and must get the same name.
    OmegaConf.register_new_resolver("run_suffix", lambda: secrets.token_hex(4), use_cache=True, replace=True)


def compose(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Return the configuration that ``python train.py OVERRIDES`` would run; ``with_hydra`` adds its node ``hydra``.

    Raises ``ConfigError`` if an override names a key or an option that does not exist in ``conf/``.
    """
    register_resolvers()
    with restored_hydra(), initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
        try:
            overrides = [quote_path(override) for override in overrides]
            check_overrides(overrides, CONF)
            return hydra_compose("train", overrides=overrides, return_hydra_config=with_hydra)
        except COMPOSITION_ERRORS as error:
            raise composition_error(error, overrides) from error


def add_missing_defaults(config: DictConfig) -> DictConfig:
    """Return a copy of ``config`` with default values for missing keys, but not in nodes with another ``_target_``.

    Runs that an older version of digitlab started lack the keys that were added since then.
    """
    config = copy.deepcopy(config)
    for key, default in compose().items():
        node = config.setdefault(key, default)
        if not OmegaConf.is_dict(node) or not OmegaConf.is_dict(default):
            continue
        if node.get("_target_") == default.get("_target_"):
            for name in default:
                if name not in node:
                    node[name] = default._get_node(name)
    return config


@contextmanager
def restored_hydra() -> Iterator[None]:
    """Clear Hydra's global state for the with block, and restore it afterwards: the caller may be a job of Hydra."""
    previous_hydra = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if previous_hydra is not None:
            GlobalHydra.instance().initialize(previous_hydra)


def composition_error(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return the ``ConfigError`` for an exception that composing ``overrides`` raised."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return ConfigError("", f"{mark.name}, line {mark.line + 1}", f"is no YAML: {error.problem}")
    groups = [*group_names(CONF), "hydra/launcher", "hydra/sweeper"]
    chosen = [override for override in overrides if override.partition("=")[0] in groups]
    with_hydra = any(override.lstrip("+~").startswith("hydra.") for override in overrides)
    keys = known_keys(chosen, with_hydra=with_hydra)
    defaults = known_keys(()) if chosen or with_hydra else keys
    return explain_hydra_error(error, overrides, keys, CONF, default_keys=defaults)


def known_keys(chosen: Sequence[str], *, with_hydra: bool = False) -> list[str]:
    """Return all dotted keys of the configuration with the ``chosen`` options; with the default ones if they fail."""
    with restored_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = hydra_compose("train", overrides=list(chosen), return_hydra_config=with_hydra)
        except COMPOSITION_ERRORS:
            config = hydra_compose("train", return_hydra_config=with_hydra)
    return [path for path, _ in walk(OmegaConf.to_container(config, resolve=False))]


def walk(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key of nested mappings as a dotted path, together with its value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path, value
            yield from walk(value, path)


def build(node: Mapping[str, Any], key: str, kind: type[T], **extra: Any) -> T:
    """Build the object that ``node`` describes: call its ``_target_`` with its other entries and with ``extra``.

    ``key`` is the dotted path of the node, for error messages. Entries with a ``_target_`` of their own are built
    first; their class must be the one in the constructor's annotation. Raises ``ConfigError`` if the target is not
    allowed or is not a subclass of ``kind``, and if the constructor rejects an argument.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(key, node, "must be a node with a _target_")
    target: type[T] | GivenNetwork = (
        _given_network(node, key, kind) if GIVEN in node else _class(str(node["_target_"]), f"{key}._target_", kind)
    )
    entries = {name: value for name, value in node.items() if name not in ("_target_", GIVEN)}
    parameters = _parameters(target)
    if absent := [name for name in extra if name not in parameters]:
        raise ConfigError(f"{key}._target_", node["_target_"], f"its constructor must take {' and '.join(absent)}")
    names = [name for name in parameters if name not in extra]
    for name, value in entries.items():
        if name not in names:
            raise unknown(name, value, names, under=key)
    arguments: dict[str, Any] = {
        name: build(value, f"{key}.{name}", _kind(target, name, f"{key}.{name}"))
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for name, value in entries.items()
    }
    # Imported late, because --help builds nothing and pydantic takes half as long to import as Hydra.
    from pydantic import ValidationError

    from digitlab.config.schema import refusal

    try:
        built: T = target(**arguments, **extra)
        return built
    except ValidationError as error:
        # A ``GivenNetwork`` only calls ``make``, the class of a user's network, which rejected the argument.
        constructed = target.make if isinstance(target, GivenNetwork) else target
        raise refusal(error, of=constructed, given=arguments | extra).under(key) from error
    except DigitlabError as error:
        raise error.under(key) if isinstance(error, ConfigError) else error from error
    except Exception as error:
        raise ConfigError(key, target.__name__, f"can't be built: {_cause(error)}") from error


def _given_network(node: Mapping[str, Any], key: str, kind: type) -> GivenNetwork:
    """Return the builder of a network that a user passed. A class that this process does not remember is imported."""
    remembered = recall(node[GIVEN])
    if remembered is not None:
        return remembered
    target, by_class = str(node["_target_"]), str(node[GIVEN]).startswith("class:")
    try:
        if by_class:
            return GivenNetwork.of_class(_class(target, f"{key}._target_", kind))
    except ConfigError:
        pass  # the error below says how to pass it again
    package = target.partition(".")[0]
    hint = f"; or name its package in the environment: DIGITLAB_ALLOW={package}"
    allowed = (
        "this process does not know this network of the run: pass it, as in digitlab.open(FOLDER, model=NETWORK), "
        "digitlab.resume(FOLDER, model=NETWORK) or digitlab.load(FOLDER, model=NETWORK)"
    )
    raise ConfigError(key, target, allowed + (hint if by_class and package != "__main__" else ""))


def _parameters(target: type | GivenNetwork) -> list[str]:
    """Return the names of the constructor's parameters."""
    if isinstance(target, GivenNetwork):
        return target.parameters
    # The signature of a pydantic dataclass is not available before its first use.
    if is_dataclass(target):
        return [field.name for field in fields(target) if field.init]
    return list(inspect.signature(target).parameters)


def _kind(target: Any, name: str, key: str) -> type:
    """Return the class that the argument ``name`` of ``target`` must have, from its annotation.

    Raises ``ConfigError`` if the annotation names no class. Without this check, a configuration could make digitlab
    build any class, and so run any code.
    """
    try:
        hint = get_type_hints(target.__init__).get(name)
    except Exception:  # evaluating an annotation that is a string can raise anything
        hint = None
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for member in members:
        if isinstance(member, type) and member.__module__ != "builtins" and not getattr(member, "_is_protocol", False):
            return member
    raise ConfigError(key, "{_target_:…}", f"{target.__name__} does not say of what class it must be")


def _cause(error: Exception) -> str:
    """Return class, message, file and line of ``error``, in place of a traceback: a user's class can raise anything."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if place.filename == __file__ else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def allow(package: str) -> None:
    """Let configurations and checkpoints name classes of ``package``, in this process and in those that it starts."""
    if not isinstance(package, str) or not package.isidentifier():
        raise ConfigError("package", package, "must be the name of a package, such as mylab")
    os.environ[_ALLOWED_BY_USER] = ",".join(dict.fromkeys([*_allowed_by_user(), package]))


def _allowed_by_user() -> list[str]:
    return [name for name in os.environ.get(_ALLOWED_BY_USER, "").split(",") if name]


def _class(target: str, key: str, kind: type[T]) -> type[T]:
    """Import the class ``target``. Raises ``ConfigError`` if it is not allowed or not a subclass of ``kind``."""
    allowed = [*_ALLOWED_PACKAGES, *_allowed_by_user()]
    if target.partition(".")[0] not in allowed:
        hint = "" if "." in target else "; write the whole path, as lightning.pytorch.callbacks.Timer"
        packages = f"{', '.join(allowed)}, or in a package named by DIGITLAB_ALLOW"
        raise ConfigError(key, target, f"must lie in {packages}{hint}")
    module_name, _, name = target.rpartition(".")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise ConfigError(key, target, f"can't be imported: {_cause(error)}") from error
    member = getattr(module, name, None)
    if member is None:
        raise ConfigError(key, target, f"{module_name} has no {name}{nearest(name, dir(module))}")
    if not (isinstance(member, type) and issubclass(member, kind)):
        raise ConfigError(key, target, f"must be a {kind.__name__}")
    return member


def plain(node: Any, key: str) -> dict[str, Any]:
    """Return a node of the configuration as plain dicts, lists and values, with interpolations resolved.

    Raises ``ConfigError`` if ``node`` is not a node with keys, or if an interpolation fails.
    """
    if not OmegaConf.is_dict(node):
        keys = [each for each in known_keys(()) if each.startswith(f"{key}.")] or [f"{key}.KEY"]
        raise ConfigError(key, node, f"has keys of its own, set one by one: {'=VALUE, '.join(keys)}=VALUE")
    try:
        container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unresolved(error, key) from error
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def without_environment(config: DictConfig) -> dict[str, Any]:
    """Return ``config`` as plain values for the run folder. Environment variables can be secrets and stay hidden."""

    def unresolved_variable(name: str, *default: Any) -> Any:
        return default[0] if default and name not in os.environ else f"${{oc.env:{name}}}"

    OmegaConf.register_new_resolver("oc.env", unresolved_variable, replace=True)
    try:
        container = OmegaConf.to_container(config, resolve=True)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
