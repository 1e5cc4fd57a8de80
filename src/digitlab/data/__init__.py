"""Data sets: sources of images, checks, splits, augmentation, and the loaders for training and evaluation.

``training`` and ``population`` use ``ImageData``. A data set is one uint8 tensor (N, C, H, W) on the training device: N
images, C channels, H rows, W columns; K is the number of classes. The training loader yields chunks: several
consecutive mini-batches that Lightning passes to one ``training_step``.
"""

from digitlab.data.emnist import EmnistData
from digitlab.data.folder_source import FolderData
from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet, Source

__all__ = ["EmnistData", "FolderData", "ImageData", "ImageSet", "Source"]
