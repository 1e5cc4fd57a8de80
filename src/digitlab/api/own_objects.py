"""Lets a configuration choose networks and images that a Python user passed: ``api.commands`` uses it.

Hydra finds them as options of the groups ``model`` and ``data``, next to the files in ``conf/``, while a run or sweep
is composed. An object never has the name of a file, which would come first. All other settings, checks and folder names
work as with the options in ``conf/``.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from digitlab.config import compose
from digitlab.core.errors import ConfigError

_OWN = "own"


@dataclass(slots=True)
class OwnObjects:
    """Overrides that choose the objects, and why another process needs the network again (None: it does not)."""

    overrides: list[str] = field(default_factory=list)
    needed_again: str | None = None


@contextmanager
def own_objects(
    overrides: Sequence[str], *, model: Any, data: Any, test_data: Any, class_names: Sequence[str] | None
) -> Iterator[OwnObjects]:
    """Within this context, the overrides that it yields choose ``model`` and ``data``, which may be names too.

    A list of networks is one option each, for a sweep. Raises ``ConfigError`` for an object that can't be used.
    """
    own = OwnObjects()
    stored: list[tuple[str, str]] = []
    try:
        if model is not None:
            models = model if isinstance(model, list | tuple) else [model]
            own.overrides.append(f"model={','.join(_model_option(each, own, stored) for each in models)}")
        if data is None or isinstance(data, str):
            for name, value in (("test_data", test_data), ("class_names", class_names)):
                if value is not None:
                    raise ConfigError(name, "…", "belongs to images of your own: give data=(images, labels) too")
            own.overrides += [] if data is None else [f"data={data}"]
        else:
            # Not imported above, because the name of a network alone needs no torch.
            from digitlab.api.own_data import own_data

            node = own_data(data, test_data, class_names, root=_data_root(overrides))
            own.overrides.append(f"data={_store('data', _OWN, node, stored)}")
        yield own
    finally:
        repository = ConfigStore.instance().repo
        for group, name in stored:
            del repository[group][f"{name}.yaml"]
            if not repository[group]:
                del repository[group]


def _model_option(model: Any, own: OwnObjects, stored: list[tuple[str, str]]) -> str:
    if isinstance(model, str):
        return model
    from digitlab.api.own_network import own_network

    network = own_network(model)
    own.needed_again = own.needed_again or network.needed_again
    # The name becomes part of the folder's name and an override, which Hydra must be able to read.
    name = re.sub(r"\W", "", network.name, flags=re.ASCII).lstrip("0123456789_") or _OWN
    return _store("model", name, network.node, stored)


def _store(group: str, name: str, node: dict[str, Any], stored: list[tuple[str, str]]) -> str:
    """Make ``node`` an option of ``group`` and return its name, which has a number if ``name`` is taken."""
    store = ConfigStore.instance()
    taken = [each.removesuffix(".yaml") for each in store.repo.get(group, {})]
    folders = filter(None, [compose.CONF, compose.OWN_CONF])
    taken += [path.stem for folder in folders for path in (folder / group).glob("*.yaml")]
    option, count = name, 1
    while option in taken:
        count += 1
        option = f"{name}_{count}"
    store.store(group=group, name=option, node=node)
    stored.append((group, option))
    return option


def _data_root(overrides: Sequence[str]) -> Path:
    """Return the folder of data sets that the overrides choose."""
    chosen = [override for override in overrides if override.partition("=")[0] == "data.root"]
    return Path(str(compose.compose(chosen).data.root)).expanduser()
