"""Sweeps: many runs from one command. A sweep's folder has a manifest, a folder a run, and the table of them all."""
