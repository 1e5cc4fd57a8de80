"""The checks that ``benchmarks/gpu_check.py`` runs, one module per group. Each group runs in a process of its own."""
