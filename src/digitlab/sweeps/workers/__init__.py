"""Runs the jobs of a sweep in other processes, on this machine or on a cluster.

``launcher`` is the base class of the launchers in ``hydra_plugins`` that do so. ``job_batch`` is the work of one
process, and ``slots`` its share of the machine. ``pools`` starts the processes on this machine and ``slurm_pool`` on a
cluster, and ``dispatch`` is the loop that hands out work. Nothing here imports torch before a process knows which GPU
it may see.
"""
