"""The networks of the reports without a framework: ``pure`` by the standard library alone, ``network`` by NumPy.

They are the oracle of the way through PyTorch, and two rows of the comparison of times. Nothing else rests on them.
"""
