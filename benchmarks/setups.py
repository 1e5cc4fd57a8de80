"""Describes how each row of ``bench.py`` computes, because the ratio of two rows means little without it."""

from dataclasses import asdict, dataclass

import torch

from bare import GraphLoop, network
from digitlab.engine.cpu_tuning import forward_cost, worthwhile_threads
from peers import JAX_SCAN, KERAS_JAX, NUMPY, USUAL
from workloads import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How one row computes.

    ``threads`` is the number that the library may use, ``layout`` the memory format of images and filters, ``images``
    how they are stored, and ``arithmetic`` the type in which matrix products and convolutions multiply.
    ``updates_per_call`` is the number of updates in one call of a compiled function, a CUDA graph or a library.
    """

    threads: str
    layout: str = "channels first"
    images: str = "float32, normalised"
    arithmetic: str = "float32"
    updates_per_call: str = "1"
    counts_metrics: bool = False

    def differences(self, other: "Setup") -> str:
        """Return what differs from ``other``, such as ``threads: 1, not 2``; empty if nothing does."""
        other_values = asdict(other)
        return "; ".join(
            f"{name.replace('_', ' ')}: {_text(value)}, not {_text(other_values[name])}"
            for name, value in asdict(self).items()
            if value != other_values[name]
        )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def bare_setup(
    device: torch.device, *, threads: int | None = None, channels_last: bool = False, graph: bool = False
) -> Setup:
    """Return the setup of a bare loop."""
    return Setup(
        threads=_threads(device, threads or torch.get_num_threads()),
        layout="channels last" if channels_last else "channels first",
        arithmetic=_arithmetic(device),
        updates_per_call=str(GraphLoop.UPDATES) if graph else "1",
    )


def digitlab_setup(workload: Workload, image_shape: tuple[int, ...], device: torch.device, *, compiled: bool) -> Setup:
    """Return the setup of digitlab for images (C, H, W). It chooses the threads by the arithmetic of a step."""
    return Setup(
        threads=_threads(device, digitlab_threads(workload, image_shape)),
        layout="channels first" if workload.hidden else "channels last",
        images="uint8, normalised in the step",
        arithmetic=_arithmetic(device),
        updates_per_call="1 to 8" if compiled or device.type == "cuda" else "1",
        counts_metrics=True,
    )


def digitlab_threads(workload: Workload, image_shape: tuple[int, ...]) -> int:
    """Return the number of threads that digitlab uses for a step of ``workload`` on the processor."""
    shape = (torch.Size(image_shape).numel(),) if workload.hidden else image_shape
    cost = forward_cost(network(workload, image_shape), shape, torch.zeros(()))
    return worthwhile_threads(cost.flops * workload.batch_size)


def peer_setups(device: torch.device) -> dict[str, Setup]:
    """Return the setups of the peers, by their names in ``peers.py``."""
    threads, arithmetic = _threads(device, torch.get_num_threads()), _arithmetic(device)
    by_library = "chosen by the library"
    return {
        NUMPY: Setup(threads=by_library),
        JAX_SCAN: Setup(
            threads=by_library, images="uint8, normalised in the step", arithmetic=arithmetic,
            updates_per_call="an epoch", counts_metrics=True,
        ),
        KERAS_JAX: Setup(
            threads=by_library, layout="channels last", arithmetic=arithmetic, updates_per_call="8",
            counts_metrics=True,
        ),
        USUAL: Setup(
            threads=threads, images="files and workers, normalised by torchvision", arithmetic=arithmetic,
            counts_metrics=True,
        ),
    }  # fmt: skip


def _threads(device: torch.device, count: int) -> str:
    return "of the GPU" if device.type == "cuda" else str(count)


def _arithmetic(device: torch.device) -> str:
    return "TF32" if device.type == "cuda" else "float32"
