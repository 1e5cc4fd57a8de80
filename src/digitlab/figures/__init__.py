"""Matplotlib figures made from tensors or from run folders.

``digitlab figures``, ``digitlab show``, the HTML report, sweeps and TensorBoard use them.
"""
