"""Matplotlib figures made from tensors or from run folders.

``digitlab figures``, ``digitlab show``, the HTML report, sweeps and TensorBoard use them.
"""

from digitlab.core.matplotlib_folder import use_writable_matplotlib_folder

use_writable_matplotlib_folder()
