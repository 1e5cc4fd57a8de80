"""Losses, optimizers, update rules and learning rate schedules."""
