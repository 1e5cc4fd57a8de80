"""Test-time augmentation: a trained network evaluates several views of each image, and averages their logits.

Shapes: N images, C channels, H rows, W columns.
"""

from typing import Literal

from torch import Tensor

from digitlab.data.warp import reflected

TestTimeAugmentation = Literal["flip", "shift", "flip_shift"]


def augmented_views(images: Tensor, kinds: TestTimeAugmentation | None) -> list[tuple[Tensor, float]]:
    """Return the views of ``images`` (N, C, H, W), each with its weight; the weights add up to one.

    ``shift`` gives three views: the image (weight 1/2), and the image moved by one pixel, down and right or up and left
    (1/4 each). The row and column that become free are filled by reflection. ``flip`` adds the mirror image of each
    view and halves the weights (as in Jordan, 2024). None gives only the image.
    """
    views = [(images, 1.0)]
    if kinds and "shift" in kinds:
        rows, columns = images.shape[2:]
        padded = reflected(images, 1)
        views = [(images, 0.5), (padded[:, :, :rows, :columns], 0.25), (padded[:, :, 2:, 2:], 0.25)]
    if kinds and "flip" in kinds:
        views = [(each, weight / 2) for view, weight in views for each in (view, view.flip(3))]
    return views
