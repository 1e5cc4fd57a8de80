"""Seeds of the random streams: shuffling, augmentation, initial weights and dropout each draw from their own.

A stream is named by what it is for and by where in the run it stands, so nothing has to be remembered between two
draws: a resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib
import json

from torch import Tensor


def stream_seed(purpose: str, *numbers: int) -> int:
    """The seed of one stream, in [0, 2^63): a pure function of its arguments, the same in every process and version.

    ``stream_seed("shuffle", seed, epoch)`` and ``stream_seed("augment", seed, epoch, step, rank)`` have nothing in
    common, nor have neighbouring steps. PyTorch's CPU generator keeps the lower 32 bits only, which are as well mixed.
    """
    # JSON keeps ("a", 1, 23) and ("a", 12, 3) apart; Python's own hash() of a string differs in every process.
    name = json.dumps([purpose, *map(int, numbers)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def coins(seed: int, numbers: Tensor) -> Tensor:
    """A fair coin for each of ``numbers``, int64, as bool of their shape: the same on every device and in any company.

    The numbers and the ``seed``, in [0, 2^63), are mixed as by SplitMix64 (Steele, Lea and Flood, 2014).
    """
    bits = numbers * -0x61C8864680B583EB + seed
    bits = (bits ^ (bits >> 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27)) * -0x6B2FB644ECCEEE15
    return ((bits ^ (bits >> 31)) & 1).bool()
