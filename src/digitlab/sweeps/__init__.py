"""Sweeps: many runs from one command.

A sweep has one folder, which holds a manifest (the list of its runs and their folders), a folder for each run, and the
table of all runs. The launchers and the search in ``hydra_plugins``, ``api``, ``cli`` and the HTML reports use this
package.
"""
