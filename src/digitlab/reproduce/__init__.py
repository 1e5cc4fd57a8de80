"""Reproduces the results of five course reports and compares them with the values and findings in the reports.

``registry`` and ``findings`` hold what the reports say, ``runner`` makes the runs, and ``table`` compares the two. Each
row of the comparison is one recipe (a file in ``conf/experiment``) with some overrides. Its runs are written to
``outputs/reproduce/<row>/seed<k>/``.
"""
