"""Every result of the five reports again: what they found, our runs of it, and the table that compares the two.

``registry`` and ``findings`` hold what the reports say, ``runner`` makes the runs, ``table`` compares. Runs are those
of ``conf/experiment``, in ``outputs/reproduce/<row>/seed<k>/``.
"""
