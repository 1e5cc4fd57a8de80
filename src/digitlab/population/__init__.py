"""Populations: runs that differ only in numbers, trained as one stacked network.

Each member does what it would do alone, up to rounding. The vectorized launcher calls ``train``. ``grouping`` decides
which jobs (``job``) share a population, ``trainer`` trains it with the engine's stacked runner, ``member`` is one run
of it, ``cohort`` holds the members at the beginning, and ``halving`` ends the worse half early.

M members, B mini-batches in a chunk, S in a compiled call, n images in a mini-batch, C, H, W, K classes. Members are
sorted by their stream of mini-batches; each seed has one stream.
"""
