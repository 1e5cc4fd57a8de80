"""digitlab: small image-classification experiments on MNIST, Fashion-MNIST and CIFAR-10.

In a notebook: ``model, data = digitlab.load("outputs/mnist-mlp/2026-11-21_10-00-00_1a2b3c4d")``.

This module imports its contents on first use, so that ``train.py --help`` does not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digitlab.training.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from digitlab.training.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
