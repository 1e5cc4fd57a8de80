"""Populations: runs that differ only in numbers, trained as one stacked network. Each member does what it would alone.

``grouping`` says which jobs may share a population; ``population`` trains one by its ``learner``, lesson by ``lesson``:
``dense`` and ``mapped`` are the stacked networks, ``losses``, ``update``, and for plain gradient descent ``descent``
and ``ahead``, what their ``steps`` are made of; ``program`` and ``compiled`` make several steps in one compiled call.
``member`` is one run of it, ``company`` who it began with. ``together`` is the way in from Hydra's launcher.

Shapes: M members, B mini-batches in a chunk and S in a compiled call, n images of a mini-batch, C, H, W, K classes, D
inputs and U units of a dense layer. Members lie in the order of their streams of mini-batches, of which each seed has
one.
"""
