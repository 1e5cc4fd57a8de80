"""The networks of the course reports without a framework: ``pure`` uses the standard library, ``network`` uses NumPy.

Tests use them as independent references for training with PyTorch, and ``reproduce`` compares their times.
"""
