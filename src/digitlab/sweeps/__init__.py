"""Sweeps: many runs from one command.

A sweep has one folder, which holds a manifest (which run is where), a folder for each run, and the table of all runs.
"""
