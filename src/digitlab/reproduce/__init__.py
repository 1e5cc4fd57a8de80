"""Reproduces the results of five course reports and compares them with the reports' figures.

``registry`` and ``findings`` hold what the reports say, ``runner`` makes the runs, and ``table`` compares the two. The
recipes are in ``conf/experiment``; runs are written to ``outputs/reproduce/<row>/seed<k>/``.
"""
