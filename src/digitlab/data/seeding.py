"""Seeds of the random streams: shuffling, augmentation, initial weights and dropout each have their own.

A stream is identified by its purpose and its position in the run. So no generator state has to be saved: a resumed run
draws the same numbers as one that was not interrupted. ``data``, ``training``, ``engine`` and ``population`` use it.
"""

import hashlib
import json

from torch import Tensor


def stream_seed(purpose: str, *numbers: int) -> int:
    """Return the seed of a stream, in [0, 2^63): a pure function of the arguments, equal on all machines and versions.

    For example ``stream_seed("shuffle", seed, epoch)`` and ``stream_seed("augment", seed, epoch, step, rank)``.
    Different arguments give unrelated seeds, also in the lower 32 bits, the only ones that PyTorch's CPU generator
    uses.
    """
    # JSON distinguishes ("a", 1, 23) from ("a", 12, 3). Python's hash() of a string differs between processes.
    name = json.dumps([purpose, *map(int, numbers)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def coin_flips(seed: int, numbers: Tensor) -> Tensor:
    """Return a fair coin flip for each of ``numbers``, int64 of any shape, as a bool tensor of the same shape.

    Each result depends only on ``seed``, in [0, 2^63), and the number itself, not on the device or the other numbers.
    The bits are mixed as in SplitMix64 (Steele, Lea and Flood, 2014).
    """
    # The factors are those of SplitMix64 as signed numbers, because PyTorch multiplies and shifts int64, not uint64.
    bits = numbers * -0x61C8864680B583EB + seed
    bits = (bits ^ (bits >> 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27)) * -0x6B2FB644ECCEEE15
    return ((bits ^ (bits >> 31)) & 1).bool()
