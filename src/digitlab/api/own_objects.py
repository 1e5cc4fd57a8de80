"""Lets a run use networks and images that a Python user passes to ``digitlab.train`` or ``digitlab.sweep``.

While the run or sweep is composed, each object is an option of Hydra's group ``model=`` or ``data=``, as if it had a
file in ``conf/``. So all other settings, checks and folder names work as with the options in ``conf/``. If a file has
the same name, Hydra would use the file, so the object gets another name.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from digitlab.config import compose
from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError
from digitlab.core.files import expand_home

# The name of an option that cannot be named after a class.
_OWN = "own"


@dataclass(slots=True)
class OwnObjects:
    """The overrides that choose the user's objects.

    ``reason_to_pass_again`` says why another process, for example one that resumes the run later, can't build the
    network unless the user passes it again; None if it can.
    """

    overrides: list[str] = field(default_factory=list)
    reason_to_pass_again: str | None = None


@contextmanager
def own_objects(
    overrides: Sequence[str], *, model: Any, data: Any, test_data: Any, class_names: Sequence[str] | None
) -> Iterator[OwnObjects]:
    """Within this context, make ``model`` and ``data`` options of Hydra, and yield the overrides that choose them.

    Both may also be the name of an option in ``conf/``. If ``model`` is a list, the override sweeps over its networks.
    Raises ``ConfigError`` for an object that can't be used.
    """
    objects = OwnObjects()
    added_options: list[tuple[str, str]] = []
    try:
        if model is not None:
            models = model if isinstance(model, list | tuple) else [model]
            options = [_model_option(each, objects, added_options) for each in models]
            objects.overrides.append(f"model={','.join(options)}")
        if data is None or isinstance(data, str):
            for name, value in (("test_data", test_data), ("class_names", class_names)):
                if value is not None:
                    raise ConfigError(name, "…", "belongs to images of your own: give data=(images, labels) too")
            objects.overrides += [] if data is None else [f"data={data}"]
        else:
            # Imported only here, because it imports torch, which takes seconds and may not be needed.
            from digitlab.api.own_data import own_data

            node = own_data(data, test_data, class_names, root=_data_root(overrides))
            objects.overrides.append(f"data={_store('data', _OWN, node, added_options)}")
        yield objects
    finally:
        # The store belongs to the whole process. Without this, later runs would find these options, too.
        repository = ConfigStore.instance().repo
        for group, name in added_options:
            del repository[group][f"{name}.yaml"]
            if not repository[group]:
                del repository[group]


def _model_option(model: Any, objects: OwnObjects, added_options: list[tuple[str, str]]) -> str:
    """Return the name of the option for ``model``. If ``model`` is an object, first make an option of it."""
    if isinstance(model, str):
        return model
    from digitlab.api.own_network import own_network

    network = own_network(model)
    objects.reason_to_pass_again = objects.reason_to_pass_again or network.reason_to_pass_again
    # The name becomes part of a folder name and of an override, so only letters, digits and _ remain.
    name = re.sub(r"\W", "", network.name, flags=re.ASCII).lstrip("0123456789_") or _OWN
    return _store("model", name, network.node, added_options)


def _store(group: str, name: str, node: dict[str, Any], added_options: list[tuple[str, str]]) -> str:
    """Make ``node`` an option of ``group`` and return its name: ``name``, or ``name_2`` and so on if that is taken."""
    store = ConfigStore.instance()
    taken_names = [each.removesuffix(".yaml") for each in store.repo.get(group, {})]
    folders = filter(None, [compose.CONF, compose.OWN_CONF])
    taken_names += [path.stem for folder in folders for path in (folder / group).glob("*.yaml")]
    option, count = name, 1
    while option in taken_names:
        count += 1
        option = f"{name}_{count}"
    store.store(group=group, name=option, node=node)
    added_options.append((group, option))
    return option


def _data_root(overrides: Sequence[str]) -> Path:
    """Return the folder of data sets that the overrides choose."""
    chosen = [override for override in overrides if split_override(override)[0] == "data.root"]
    return expand_home(str(compose.compose(chosen).data.root))
