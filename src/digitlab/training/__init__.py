"""Training: a checked configuration and a data set in, a run folder out. ``train(cfg)`` is the way in."""

from digitlab.core.fast_import import gc_paused

with gc_paused():
    from digitlab.training.classifier import Classifier
    from digitlab.training.run import Outcome, train

__all__ = ["Classifier", "Outcome", "train"]
