"""Finds images that occur more than once in a data set: exactly, or with small changes. ``data_check`` uses it.

N is the number of images, (C, H, W) their shape, D the number of values of a reduced image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

# Images are reduced before they are compared, so that noise and compression hardly matter. The number of pixels on each
# side of a reduced image, by the number of channels.
_REDUCED_PIXELS = {1: 14, 3: 8}
_LEAST_CORRELATION = 0.9
# Lowe's ratio test (2004): the nearest image must be this much nearer than the tenth nearest. Without it, all straight
# ones of MNIST would count as copies of each other.
_LARGEST_RATIO, _REFERENCE = 0.5, 10
# So many images are compared with all others at once. With the 70,000 images of MNIST, their similarities take 420 MB.
_ROWS_AT_ONCE = 1500
# At least so many images are in the sample that rules out most candidates before they are compared with all images.
_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images, ``first`` < ``second``, and the correlation of their pixels in [-1, 1]."""

    first: int
    second: int
    correlation: float


def exact_duplicates(images: Tensor) -> list[list[int]]:
    """Return the groups of equal images, uint8 (N, C, H, W), as ascending indices."""
    groups: dict[bytes, list[int]] = {}
    for number, image in enumerate(images.flatten(1).numpy()):
        groups.setdefault(blake2b(image.tobytes(), digest_size=16).digest(), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(images: Tensor) -> list[Pair]:
    """Return pairs of images, uint8 (N, C, H, W), that are almost equal, the most similar first.

    An image and its nearest image are a pair if the correlation of the reduced images is at least 0.9 and if their
    distance is at most half of the distance to the tenth nearest image (the ratio test). Differences in brightness and
    contrast do not matter. Mirrored and shifted copies are not found, and neither are images with ten copies or more.
    """
    # Each step leaves fewer images for the next one: find the nearest image of each, then rule out most of them with a
    # sample, then make the ratio test with all images.
    vectors = _vectors(images)
    similarities, nearest = _nearest(vectors)
    candidates = (similarities >= _LEAST_CORRELATION).nonzero().flatten()
    candidates = candidates[_can_pass_ratio_test(vectors, candidates, _distance(similarities[candidates]))]
    pairs: dict[tuple[int, int], float] = {}
    for rows in candidates.split(_ROWS_AT_ONCE):
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(rows)), rows] = -1  # an image is no neighbour of itself
        reference = cosines.topk(min(_REFERENCE, len(images) - 1), dim=1).values[:, -1]
        ratios = _distance(similarities[rows]) / _distance(reference).clamp(min=1e-6)
        for row in rows[ratios <= _LARGEST_RATIO].tolist():
            first, second = sorted((row, int(nearest[row])))
            pairs[first, second] = float(similarities[row])
    result = [Pair(first, second, correlation) for (first, second), correlation in pairs.items()]
    return sorted(result, key=lambda pair: (-pair.correlation, pair.first))


def _can_pass_ratio_test(vectors: Tensor, rows: Tensor, distances: Tensor) -> Tensor:
    """Return which of the ``rows`` (n,) of ``vectors`` can pass the ratio test, bool (n,).

    ``distances`` (n,) are those to the nearest vectors. The tenth nearest vector of a sample is at least as far away as
    the tenth nearest of all, so a row that fails with the sample fails with all. The sample saves time: it has a
    seventh of the 70,000 images of Fashion-MNIST, and it rules out most candidates there, because most images of
    clothes have a similar one, but only few have a copy.
    """
    step = len(vectors) // _SAMPLE
    if step < 2:
        return torch.ones(len(rows), dtype=torch.bool)
    sample = vectors[::step]
    # One more than the reference, because the sample may contain the row itself.
    references = [
        (vectors[part] @ sample.T).topk(_REFERENCE + 1, dim=1).values[:, -1] for part in rows.split(_ROWS_AT_ONCE)
    ]
    return distances / _distance(torch.cat(references)).clamp(min=1e-6) <= _LARGEST_RATIO


def _distance(similarity: Tensor) -> Tensor:
    """Return the distance of two unit vectors from their cosine."""
    return (2 - 2 * similarity).clamp(min=0).sqrt()


def _vectors(images: Tensor) -> Tensor:
    """Return reduced images as unit vectors with mean 0, float32 (N, D). The product of two is their correlation."""
    side = _REDUCED_PIXELS.get(images.shape[1], 8)
    size = (min(side, images.shape[2]), min(side, images.shape[3]))
    vectors = torch.cat([adaptive_avg_pool2d(part.float(), size).flatten(1) for part in images.split(10_000)])
    vectors -= vectors.mean(1, keepdim=True)
    # An image of one colour has no direction. It becomes the zero vector.
    vectors /= vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return vectors


def _nearest(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each vector the largest cosine with another one, float (N,), and its index, int64 (N,)."""
    best, nearest = torch.full((len(vectors),), -1.0), torch.zeros(len(vectors), dtype=torch.int64)
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    for start in starts:
        rows = vectors[start : start + _ROWS_AT_ONCE]
        # The matrix of all products is symmetric, so only the blocks on and above its diagonal are computed. In
        # a block, the largest value of each row is a candidate for the row's image, and that of each column likewise.
        for other in range(start, len(vectors), _ROWS_AT_ONCE):
            block = rows @ vectors[other : other + _ROWS_AT_ONCE].T
            if other == start:
                block.fill_diagonal_(-1)
            for values, begin, offset in ((block.max(1), start, other), (block.max(0), other, start)):
                rows_of_block = slice(begin, begin + len(values.values))
                better = values.values > best[rows_of_block]
                best[rows_of_block] = torch.where(better, values.values, best[rows_of_block])
                nearest[rows_of_block] = torch.where(better, values.indices + offset, nearest[rows_of_block])
    return best, nearest


def join_groups(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Join groups that share an image; each resulting group is ascending. The method is union-find."""
    # Each group is a tree. An image that is its own parent is the root of its tree.
    parent: dict[int, int] = {}

    def root(image: int) -> int:
        while parent.setdefault(image, image) != image:
            image = parent[image]
        return image

    for group in groups:
        for image in group[1:]:
            parent[root(image)] = root(group[0])
    by_root: dict[int, list[int]] = {}
    for image in sorted(parent):
        by_root.setdefault(root(image), []).append(image)
    return list(by_root.values())
