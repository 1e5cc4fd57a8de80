"""Reproduces the results of five course reports (R1 to R5) and compares them with the reports, in a table.

``digitlab reproduce`` uses it. ``registry`` holds the values that the reports give, and ``findings`` the sentences in
them that our runs can support or refute. ``runner`` makes the runs, and ``table`` compares. Each row of the comparison
is one recipe (a file in ``conf/experiment``) with some overrides. Its runs are written to
``outputs/reproduce/<row>/seed<k>/``.
"""
