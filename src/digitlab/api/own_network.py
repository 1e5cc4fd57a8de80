"""Turns a network that a Python user passes to ``digitlab.train`` into a node of the configuration.

A configuration holds only plain values, so the node holds the name of the network's class and an identifier.
``config.given`` remembers the network under this identifier, so that this process can build it again. If the user
passes a class instead of an object, the node also holds the settings of its constructor.

The identifier contains digests: of an object its layers and code, and its weights; of a class its code. So if the user
calls ``digitlab.sweep`` again, the same network finds its finished runs, and a changed network is trained anew.
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

from digitlab.config.given import FACTS, GIVEN, GivenNetwork, named_parameters, remember
from digitlab.core.errors import ConfigError

# The types of values that a configuration can hold, besides lists and dicts.
_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A network that the user passed: the name of its class, its node in the configuration, and what builds it.

    ``reason_to_pass_again`` says why another process can't build the network unless the user passes it again; None if
    it can.
    """

    name: str
    node: dict[str, Any]
    builder: GivenNetwork
    reason_to_pass_again: str | None


def own_network(model: Any) -> OwnNetwork:
    """Remember ``model`` and return its node: a network, a class, or ``functools.partial`` of a class with settings.

    For a network, each run trains a copy that starts from the network's weights; the network itself does not change.
    The copy is float32 and on the CPU before training. For a class, each run builds a new network with weights from its
    seed. Raises ``ConfigError`` for anything else.
    """
    if isinstance(model, nn.Module):
        return _from_object(model)
    settings: dict[str, Any] = {}
    if isinstance(model, functools.partial):
        if model.args:
            raise ConfigError("model", model.func, "functools.partial must give the settings by name, as hidden=32")
        model, settings = model.func, model.keywords
    if isinstance(model, type) and issubclass(model, nn.Module):
        return _from_class(model, settings)
    allowed = 'must be a network (torch.nn.Module), a class of networks, or the name of one, as "mlp"'
    raise ConfigError("model", f"<{type(model).__name__}>", allowed)


def remember_for_run(config: DictConfig, model: Any) -> None:
    """Remember ``model`` under the identifier in ``config``, so that a run of another process can be loaded or resumed.

    Raises ``ConfigError`` if ``model`` is not the network of that run.
    """
    if isinstance(model, functools.partial):
        model = model.func  # the configuration of the run holds the settings
    network, identifier = own_network(model), config.model.get(GIVEN)
    if identifier is None:
        raise ConfigError("model", network.name, f"the run's network is {config.model._target_}, which needs no object")
    target, kind = str(config.model["_target_"]), str(identifier).partition(":")[0]
    if kind == "class" and not isinstance(model, type):
        raise ConfigError("model", network.name, f"is an object; the run was given the class {target}: pass the class")
    # An identifier is object:LAYERS:WEIGHTS. Only the digests of the layers must agree, because a checkpoint of the run
    # replaces the weights.
    if kind == "object" and str(identifier).split(":")[1] != str(network.node[GIVEN]).split(":")[1]:
        raise ConfigError(
            "model", network.name, f"is not the network of the run, {target}: its layers or its code differ"
        )
    remember(str(identifier), network.builder)


def _from_object(network: nn.Module) -> OwnNetwork:
    """Remember a network with its weights and return its node. Raises ``ConfigError`` if it can't be copied."""
    network_class = type(network)
    try:
        builder = _copying_builder(network)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError("model", network_class.__name__, f"can't be copied: {reason}; pass its class") from error
    identifier = f"object:{_digest(_layers(network))}:{_digest(_weights(network))}"
    remember(identifier, builder)
    node = {"_target_": _name_of(network_class), GIVEN: identifier}
    reason = "its network is an object; only a class that is defined in a module can be found again by its name"
    return OwnNetwork(network_class.__name__, node, builder, reason)


def _copying_builder(network: nn.Module) -> GivenNetwork:
    """Return a ``GivenNetwork`` that makes a copy of the network for each run."""
    # The user may change the network later. So the runs copy this prototype, not the network.
    prototype = copy.deepcopy(network).cpu().float()

    def make_copy() -> nn.Module:
        return copy.deepcopy(prototype).train()

    return GivenNetwork(make_copy, type(network).__name__, ())


def _from_class(network_class: type[nn.Module], settings: dict[str, Any]) -> OwnNetwork:
    """Remember a class and return its node: the parameters of its constructor with the user's ``settings`` or defaults.

    A parameter with neither gets the value ``???``, which tells the user to set it in an override. A default that a
    configuration can't hold is left out of the node, so the constructor uses it. digitlab itself passes the parameters
    in ``FACTS``.
    """
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
    builder = GivenNetwork.of_class(network_class)
    remember(node[GIVEN], builder)
    return OwnNetwork(network_class.__name__, node, builder, _not_importable(network_class))


def _not_importable(network_class: type) -> str | None:
    """Return why another process can't import the class by its name; None if it can."""
    name = network_class.__name__
    if network_class.__module__ == "__main__":
        return f"{name} is defined in a notebook or script, not in a module"
    if network_class.__qualname__ != name:
        return f"{name} is defined inside a function or class, not at the top of a module"
    return None


def _name_of(network_class: type) -> str:
    return f"{network_class.__module__}.{network_class.__qualname__}"


def _is_plain(value: object) -> bool:
    """Whether a configuration can hold the value."""
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
    """Yield values that differ between networks with different layers or different code; weights do not matter."""
    yield str(network)
    for name, tensor in network.state_dict().items():
        yield name, None if is_lazy(tensor) else tuple(tensor.shape)
    for network_class in dict.fromkeys(type(module) for module in network.modules()):
        yield from _code_of(network_class)


def _weights(network: nn.Module) -> Iterator[object]:
    """Yield the bytes of each tensor of the network."""
    for tensor in network.state_dict().values():
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor):
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _code_of(network_class: type, visited: set[object] | None = None) -> Iterator[object]:
    """Yield the byte code of a class: of its methods, its base classes, and the classes and functions that they use.

    Byte code works in notebooks, too, which do not keep the source of a class. Classes of torch, Lightning and digitlab
    are left out. Classes and functions can use each other, so ``visited`` holds those that were yielded before.
    """
    visited = set() if visited is None else visited
    for base in network_class.__mro__:
        if base in visited or base.__module__.partition(".")[0] in ("torch", "digitlab", "builtins", "lightning"):
            continue
        visited.add(base)
        yield base.__qualname__
        for name, member in sorted(vars(base).items()):
            # Class methods and static methods hold their function in __func__, properties in fget.
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(function):
                yield name
                yield from _code_of_function(function, visited)


def _code_of_function(function: types.FunctionType, visited: set[object]) -> Iterator[object]:
    """Yield the byte code of a function, of the classes that it uses, and of the functions of its own module."""
    yield from _code(function.__code__)
    for name in function.__code__.co_names:
        used = function.__globals__.get(name)
        if isinstance(used, type):
            yield from _code_of(used, visited)
        elif inspect.isfunction(used) and used.__module__ == function.__module__ and used not in visited:
            visited.add(used)
            yield from _code_of_function(used, visited)


def _code(code: types.CodeType) -> Iterator[object]:
    """Yield the byte code, names and constants of a code object, and of the functions defined inside it."""
    yield code.co_code
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            # The order of a set differs between processes, and the digest must be the same in all of them.
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
