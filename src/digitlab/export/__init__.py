"""Exports the network of a finished run: as an ONNX file, as weights, as a PyTorch program, or in a web page.

``digitlab export``, ``digitlab demo`` and ``Run.export`` use it. The libraries that it needs belong to the extra
``export``.
"""
