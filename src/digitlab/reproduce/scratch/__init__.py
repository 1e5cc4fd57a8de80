"""The reports' networks without a framework: ``pure`` uses only the standard library, ``network`` uses NumPy.

Tests use them as independent references for training with PyTorch, and ``reproduce`` compares their times.
"""
