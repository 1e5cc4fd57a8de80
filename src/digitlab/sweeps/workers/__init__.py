"""The jobs of a sweep in other processes, of this machine or of a cluster.

``batch`` is what a process is given, ``slots`` its share of a machine, ``pools`` the engines that run it, and
``dispatch`` the loop between them. Nothing here imports torch before a process knows which GPU it may see.
"""
