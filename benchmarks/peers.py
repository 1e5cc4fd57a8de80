"""The reference rows of the benchmark: which there are, and how one is run, in a process of its own.

A row is a module with ``epoch_seconds(workload, device)`` and what it ``REQUIRES``; a further row is one more entry.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

import peers_keras
import peers_lightning
from workloads import Workload


@dataclass(frozen=True, slots=True)
class Peer:
    """``epoch_seconds`` takes a workload and ``cpu`` or ``cuda``; ``requires`` are packages of the extra ``bench``."""

    epoch_seconds: Callable[[Workload, str], list[float]]
    requires: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        """The installed ones of the packages it requires."""
        found = {}
        for package in self.requires:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found


PEERS = {
    "Keras (JAX)": Peer(peers_keras.epoch_seconds, peers_keras.REQUIRES),
    "usual Lightning": Peer(peers_lightning.epoch_seconds),
}


def peer_seconds(name: str, workload: Workload, device: torch.device) -> list[float] | str:
    """Seconds of each epoch that the row counts, or why there are none."""
    peer = PEERS[name]
    missing = [package for package in peer.requires if package not in peer.versions()]
    if missing:
        return f"{', '.join(missing)} not installed: pip install -e '.[bench]'"
    # Spawned, not forked: the libraries' threads would not survive a fork.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(peer.epoch_seconds, workload, device.type).result()
        except Exception as error:  # whatever happens to a reference row, the measurement goes on
            return f"failed: {type(error).__name__}: {error}".splitlines()[0]
