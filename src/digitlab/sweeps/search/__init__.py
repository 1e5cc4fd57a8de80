"""``hydra/sweeper=optuna``: a search chooses the runs of a sweep in rounds, from the results of earlier rounds.

``settings`` checks what the user asks for, ``space`` holds what can be chosen, ``samplers`` choose, and ``study``
stores the choices and their results in the database that ``storage`` opens. ``workers`` lets several processes share a
search. The sweeper in ``hydra_plugins.digitlab_optuna`` runs it.
"""
