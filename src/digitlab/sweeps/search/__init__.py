"""``hydra/sweeper=optuna``: a search chooses the runs of a sweep in rounds, from the results of earlier rounds."""
