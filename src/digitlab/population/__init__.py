"""Populations: runs that differ only in numbers, trained as one stacked network.

Each member does what it would do alone, up to rounding. The vectorized launcher calls ``train``. ``grouping`` decides
which jobs (``job``) train as one population, ``trainer`` trains it with the engine's stacked runner, and ``member`` is
one run of it. ``cohort`` remembers the members at the beginning, and ``halving`` ends the worse half early.

Shapes: M members, B mini-batches in a chunk, S mini-batches in a compiled call, n images in a mini-batch, C channels,
H rows, W columns, K classes. All members with the same seed train on the same stream of mini-batches; members are
sorted by their streams.
"""
