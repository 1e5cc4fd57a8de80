"""Takes the network out of a finished run: as an ONNX file, as weights, as a PyTorch program, or as a web page to try.

``digitlab export``, ``digitlab demo`` and ``Run.export`` use it. Its libraries belong to the extra ``export``.
"""
