"""The live page of ``digitlab watch``: it follows all runs and sweeps under a folder and changes nothing there.

``tree`` finds the folders, ``run`` and ``sweep`` follow one of them each, ``laboratory`` follows all, and ``server``
answers the browser. Nothing here imports torch.
"""
