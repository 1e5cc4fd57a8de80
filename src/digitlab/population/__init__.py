"""Populations: runs that differ only in numeric settings, trained together as one stacked network.

Each member, which is one run of a population, does what it would do alone, up to rounding. The vectorized launcher
makes a ``job`` of each run, groups the jobs into populations with ``grouping``, and calls ``train`` for each
population. ``trainer`` trains it with the engine's stacked runner. ``member`` is one run of it, and ``testing``
evaluates members on the test set. ``cohort`` remembers the members at the beginning, and ``halving`` ends the worse
half early.

Shapes: M members, B mini-batches in a chunk, N images of the test set, n images of a mini-batch, K classes. A stream is
the sequence of mini-batches that one seed gives. Members with the same seed share a stream, and members are sorted by
their seeds.
"""
