"""Populations: runs that differ only in numbers, trained as one stacked network. Each member does what it would alone.

``grouping`` says which jobs may share a population; ``population`` trains one by its ``learner``: ``dense`` and
``mapped`` are the stacked networks, ``losses``, ``dropout``, ``update``, and for plain gradient descent ``descent`` and
``ahead``, their step; ``member`` is one run of it. ``together`` is the way in from Hydra's launcher.

Shapes: M members, S streams of mini-batches (one a seed), n images of a mini-batch, C, H, W, K classes, D inputs and U
units of a dense layer. Members lie in the order of their streams.
"""
