"""Test-time augmentation: a trained network sees an image in several views, and their logits are averaged.

N images, C, H, W.
"""

from typing import Literal

from torch import Tensor

from digitlab.data.warp import reflected

TestTimeAugmentation = Literal["flip", "shift", "flip_shift"]


def augmented_views(images: Tensor, kinds: TestTimeAugmentation | None) -> list[tuple[Tensor, float]]:
    """Each view of ``images`` (N, C, H, W) with its weight; the weights add up to one.

    ``shift`` is the image as it is, which has half of the weight, and moved by a pixel, up and left or down and right,
    its border reflected; ``flip`` is each of them and its mirror image (as in Jordan, 2024); None is the image alone.
    """
    found = [(images, 1.0)]
    if kinds and "shift" in kinds:
        rows, columns = images.shape[2:]
        padded = reflected(images, 1)
        found = [(images, 0.5), (padded[:, :, :rows, :columns], 0.25), (padded[:, :, 2:, 2:], 0.25)]
    if kinds and "flip" in kinds:
        found = [(each, weight / 2) for view, weight in found for each in (view, view.flip(3))]
    return found
