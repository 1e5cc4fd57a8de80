"""Matplotlib figures made from tensors or from run folders.

``digitlab figures``, ``digitlab show``, the HTML report, sweeps and TensorBoard use them.
"""

from digitlab.core.matplotlib_folder import use_writable_matplotlib_folder

# Matplotlib looks for its folder when it is imported. So this comes before any module of the package imports it.
use_writable_matplotlib_folder()
