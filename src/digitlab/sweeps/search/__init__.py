"""``hydra/sweeper=optuna``: a search chooses the runs of a sweep, round by round, by what the former ones came to."""
