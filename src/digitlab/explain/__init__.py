"""Explains the predictions of a network and finds mistakes in a data set: ``digitlab explain`` and ``show --check``.

``attributions``, ``neighbours``, ``class_images`` and ``embedding`` explain a finished run; ``duplicates``,
``label_errors`` and ``data_check`` examine the images and labels of a data set.
"""
