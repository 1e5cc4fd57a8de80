"""Training: turns a configuration into a finished run folder. ``train(cfg)`` is the entry point."""

from digitlab.core.fast_import import gc_paused
from digitlab.core.matplotlib_folder import matplotlib_importable

# These modules import Lightning, which imports Matplotlib. That needs a writable folder, and the import is faster
# without garbage collection.
with matplotlib_importable(), gc_paused():
    from digitlab.training.classifier import Classifier
    from digitlab.training.run import Outcome, train

__all__ = ["Classifier", "Outcome", "train"]
