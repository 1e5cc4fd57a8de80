"""Turns a network that a Python user passes to ``digitlab.train`` into a node of the configuration.

The node has the name of the class, an identifier and, for a class, the settings of its constructor. ``config.given``
remembers the object itself, so that this process can build the network again.
"""

import copy
import functools
import hashlib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn.parameter import is_lazy

from digitlab.config.given import FACTS, GIVEN, Given, named_parameters, remember
from digitlab.core.errors import ConfigError

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A network of the user's: the name of its class, its node, and why another process needs it again, or None."""

    name: str
    node: dict[str, Any]
    needed_again: str | None


def own_network(model: Any) -> OwnNetwork:
    """Remember ``model``, a network, a class of networks, or ``functools.partial`` of a class with its settings.

    A network starts from the weights that it has and is not changed: each run trains a copy, in float32 on the CPU at
    first. A class draws new weights from the seed of each run. Raises ``ConfigError`` for anything else.
    """
    if isinstance(model, nn.Module):
        return _of_object(model)
    settings: dict[str, Any] = {}
    if isinstance(model, functools.partial):
        if model.args:
            raise ConfigError("model", model.func, "functools.partial must give the settings by name, as hidden=32")
        model, settings = model.func, model.keywords
    if isinstance(model, type) and issubclass(model, nn.Module):
        return _of_class(model, settings)
    allowed = 'must be a network (torch.nn.Module), a class of networks, or the name of one, as "mlp"'
    raise ConfigError("model", f"<{type(model).__name__}>", allowed)


def remember_for_run(config: DictConfig, model: Any) -> None:
    """Remember ``model`` as the network of the run with ``config``, which another process may have trained.

    Raises ``ConfigError`` if it is not the network of the run.
    """
    if isinstance(model, functools.partial):
        model = model.func  # the configuration has the settings
    own, recorded = own_network(model), config.model.get(GIVEN)
    if recorded is None:
        raise ConfigError("model", own.name, f"the run's network is {config.model._target_}, which needs no object")
    target, kind = str(config.model["_target_"]), str(recorded).partition(":")[0]
    if kind == "class" and not isinstance(model, type):
        raise ConfigError("model", own.name, f"is an object; the run was given the class {target}: pass the class")
    # Weights differ, because a checkpoint replaces them. Layers and code must agree.
    if kind == "object" and str(recorded).split(":")[1] != str(own.node[GIVEN]).split(":")[1]:
        raise ConfigError("model", own.name, f"is not the network of the run, {target}: its layers or its code differ")
    remember(str(recorded), Given.of_class(model) if kind == "class" else _copies(model))


def _of_object(network: nn.Module) -> OwnNetwork:
    network_class = type(network)
    try:
        prototype = copy.deepcopy(network)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError("model", network_class.__name__, f"can't be copied: {reason}; pass its class") from error
    identifier = f"object:{_digest(_layers(prototype))}:{_digest(_weights(prototype))}"
    remember(identifier, _copies(prototype))
    why = "its network is an object; only a class that is defined in a module can be found again by its name"
    return OwnNetwork(network_class.__name__, {"_target_": _name_of(network_class), GIVEN: identifier}, why)


def _copies(network: nn.Module) -> Given:
    # The user may train or change the object later, so a copy is kept, and each run gets a copy of that.
    prototype = copy.deepcopy(network).cpu().float()

    def copied() -> nn.Module:
        return copy.deepcopy(prototype).train()

    return Given(copied, type(network).__name__, ())


def _of_class(network_class: type[nn.Module], settings: dict[str, Any]) -> OwnNetwork:
    node: dict[str, Any] = {"_target_": _name_of(network_class)}
    parameters = named_parameters(network_class)
    for name, parameter in parameters.items():
        if name in FACTS:
            continue
        value = settings.get(name, "???" if parameter.default is parameter.empty else parameter.default)
        if _is_plain(value):
            node[name] = list(value) if isinstance(value, tuple) else value
        elif name in settings:
            raise ConfigError(f"model.{name}", value, "must be a number, a text, or a list or dict of these")
    if unknown := [name for name in settings if name not in parameters]:
        raise ConfigError(f"model.{unknown[0]}", settings[unknown[0]], f"no such setting of {network_class.__name__}")
    node[GIVEN] = f"class:{_digest(_code_of(network_class))}"
    remember(node[GIVEN], Given.of_class(network_class))
    return OwnNetwork(network_class.__name__, node, _not_importable(network_class))


def _not_importable(network_class: type) -> str | None:
    name = network_class.__name__
    if network_class.__module__ == "__main__":
        return f"{name} is defined in a notebook or script, not in a module"
    if network_class.__qualname__ != name:
        return f"{name} is defined inside a function or class, not at the top of a module"
    return None


def _name_of(network_class: type) -> str:
    return f"{network_class.__module__}.{network_class.__qualname__}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return type(value) in _PLAIN


def _digest(parts: Iterator[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()[:16]


def _layers(network: nn.Module) -> Iterator[object]:
    """What tells networks with other layers or other code apart."""
    yield str(network)
    for name, tensor in network.state_dict().items():
        yield name, None if is_lazy(tensor) else tuple(tensor.shape)
    for network_class in dict.fromkeys(type(module) for module in network.modules()):
        yield from _code_of(network_class)


def _weights(network: nn.Module) -> Iterator[object]:
    for tensor in network.state_dict().values():
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor):
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _code_of(network_class: type, known: set[object] | None = None) -> Iterator[object]:
    """The code of the methods of a class, of its base classes, and of the classes and functions that they use.

    It is byte code, because notebooks do not keep the source of a class. torch and digitlab themselves are left out.
    """
    known = set() if known is None else known
    for each in network_class.__mro__:
        if each in known or each.__module__.partition(".")[0] in ("torch", "digitlab", "builtins", "lightning"):
            continue
        known.add(each)
        yield each.__qualname__
        for name, member in sorted(vars(each).items()):
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(function):
                yield name
                yield from _code_of_function(function, known)


def _code_of_function(function: types.FunctionType, known: set[object]) -> Iterator[object]:
    yield from _code(function.__code__)
    for name in function.__code__.co_names:
        used = function.__globals__.get(name)
        if isinstance(used, type):
            yield from _code_of(used, known)
        elif inspect.isfunction(used) and used.__module__ == function.__module__ and used not in known:
            known.add(used)
            yield from _code_of_function(used, known)


def _code(code: types.CodeType) -> Iterator[object]:
    yield code.co_code
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            # The order of a set differs from process to process.
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
