"""Losses, optimizers, update rules and learning-rate schedules.

``optimizers`` has the settings and builds ``torch.optim`` objects for eager solo runs: such a run trains one network
and executes PyTorch's operations one by one. ``functional`` and ``muon`` have the same updates as functions of tensors.
``engine`` uses them for compiled runs and for populations, which train several networks, the *members*, at once.
``state`` converts between the states of both forms.
"""
