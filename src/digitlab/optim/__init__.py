"""Losses, optimizers, update rules and learning-rate schedules.

``optimizers`` has the settings and builds ``torch.optim`` objects for eager solo runs. ``functional`` and ``muon`` have
the same updates as functions of tensors, for compiled runs and populations in ``engine``. ``state`` converts between
the states of both.
"""
