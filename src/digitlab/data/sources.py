"""The data sets under the names that ``conf/data/*.yaml`` use as ``_target_``."""

from digitlab.data.cifar_source import Cifar10Source
from digitlab.data.idx_source import IdxSource
from digitlab.data.mnist_sources import FashionMnistSource, MnistSource

__all__ = ["Cifar10Source", "FashionMnistSource", "IdxSource", "MnistSource"]
