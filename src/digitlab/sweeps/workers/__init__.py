"""Runs the jobs of a sweep in other processes, on this machine or on a cluster.

``job_batch`` is the work of one process, ``slots`` its share of the machine, ``pools`` starts the processes, and
``dispatch`` is the loop that hands out work. Nothing here imports torch before a process knows which GPU it may see.
"""
