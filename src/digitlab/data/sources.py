"""Collects the source classes, so that ``_target_`` in ``conf/data/*.yaml`` names one module for all of them."""

from digitlab.data.cifar_source import Cifar10Source
from digitlab.data.emnist import EmnistSource
from digitlab.data.folder_source import FolderSource
from digitlab.data.idx_source import IdxSource
from digitlab.data.mnist_sources import FashionMnistSource, MnistSource
from digitlab.data.torchvision_sources import Cifar100Source, KmnistSource, QmnistSource, SvhnSource

__all__ = [
    "Cifar10Source", "Cifar100Source", "EmnistSource", "FashionMnistSource", "FolderSource", "IdxSource",
    "KmnistSource", "MnistSource", "QmnistSource", "SvhnSource",
]  # fmt: skip
