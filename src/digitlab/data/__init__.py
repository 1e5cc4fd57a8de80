"""Data: sources of images, the split, and the loader of chunks of mini-batches.

N images, C, H, W, K classes. A set is one uint8 tensor (N, C, H, W) on the training device.
"""

from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet, Source

__all__ = ["ImageData", "ImageSet", "Source"]
