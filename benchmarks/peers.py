"""Runs the peers that ``bench.py`` compares digitlab with: the same training in other libraries or in usual Lightning.

Each peer takes its turns in its own process. It is a class. Its constructor takes a workload and ``cpu`` or ``cuda``
and compiles what has to be compiled; its method ``epoch_seconds()`` trains for one round. To add a peer, add an entry
to ``PEERS``.
"""

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, Self

import torch

from workloads import Workload


class Row(Protocol):
    def epoch_seconds(self) -> list[float]:
        """Train for one round; return the seconds of each epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """``target`` is ``module.class``; ``requires`` names packages of the extra ``bench``.

    ``environment`` is set before the module is imported. A slow peer with ``once`` runs only in the first round.
    """

    target: str
    requires: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mlp_only: bool = False
    once: bool = False

    def versions(self) -> dict[str, str]:
        """Return the versions of the required packages that are installed."""
        versions = {}
        for package in self.requires:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        return versions

    def refusal(self, workload: Workload) -> str | None:
        """Return why the peer cannot run ``workload``: a package is missing, or it has MLPs only. None if it can."""
        if missing := [package for package in self.requires if package not in self.versions()]:
            return f"{', '.join(missing)} not installed: pip install -e '.[bench]'"
        return "for MLPs only" if self.mlp_only and not workload.hidden else None


# On a GPU, JAX would take most of the memory when it starts, but the other rows share the GPU. It would also choose
# another precision of matrix products, but all other rows multiply in TF32. Neither changes anything on a CPU.
_JAX = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"}
NUMPY, JAX_SCAN, KERAS_JAX, USUAL = "NumPy loop", "JAX scan", "Keras on JAX", "usual Lightning"
PEERS = {
    NUMPY: Peer(target="peers_numpy.NumpyLoop", mlp_only=True),
    JAX_SCAN: Peer(target="peers_jax.JaxScan", requires=("jax",), environment=_JAX, mlp_only=True),
    KERAS_JAX: Peer(
        target="peers_keras.KerasFit", requires=("keras", "jax"), environment={**_JAX, "KERAS_BACKEND": "jax"},
    ),
    USUAL: Peer(target="peers_lightning.UsualLightning", once=True),
}  # fmt: skip


class PeerProcess:
    """The process of one peer. It builds the peer in its first turn and ends with the ``with`` block."""

    def __init__(self, name: str, workload: Workload, device: torch.device) -> None:
        self.peer = PEERS[name]
        self._arguments = (self.peer, workload, device.type)

    def __enter__(self) -> Self:
        # Spawned, not forked: threads of the libraries do not survive a fork.
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.shutdown()

    def epoch_seconds(self) -> list[float] | str:
        """Let the peer train for one round; return the seconds of each epoch, or the reason why there are none."""
        if reason := self.peer.refusal(self._arguments[1]):
            return reason
        try:
            return self._process.submit(_turn, *self._arguments).result()
        except Exception as error:  # a failing peer must not end the measurement
            return f"failed: {type(error).__name__}: {error}".splitlines()[0]


# Only the process of a peer uses this: it keeps the peer from one turn to the next.
_built_peers: dict[str, Row] = {}


def _turn(peer: Peer, workload: Workload, device: str) -> list[float]:
    """Run in the process of the peer: build it in the first turn, and train for one round."""
    if peer.target not in _built_peers:
        # JAX and Keras read the environment when they are imported.
        os.environ |= {**peer.environment, "JAX_PLATFORMS": device}
        module, _, name = peer.target.rpartition(".")
        _built_peers[peer.target] = getattr(import_module(module), name)(workload, device)
    return _built_peers[peer.target].epoch_seconds()
