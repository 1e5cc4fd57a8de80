"""How parameter updates are executed: eager, compiled or as a CUDA graph, for one network or for M stacked networks.

Terms that all modules of this package use:

- A *solo run* trains one network. A *population* trains M networks together, its *members*.
- *Stacked* tensors hold the tensors of all members: (M, ...), one row for each member.
- Members with the same seed train on the same mini-batches in the same order. These mini-batches are their *stream*.
- A *chunk* is several consecutive mini-batches, which Lightning handles as one training step.
- *Eager* updates execute PyTorch's operations one by one. A *call* makes several updates at once: it runs a *library*,
  which is a compiled function on disk, or replays a CUDA graph.
- *Encoded* targets have the form that the loss takes (``Loss.encode``).
- The *average* of a network has the exponential moving average (EMA) of its parameters. The *EMA weight* is the weight
  of the new parameters in it.
"""
