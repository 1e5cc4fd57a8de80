"""Explains the predictions of a network and finds mistakes in a data set: ``digitlab explain`` and ``show --check``.

``network`` loads the finished run that is explained. ``predictions`` explains single predictions, with ``attributions``
and ``neighbours``. ``learned`` draws what the network has learned, with ``class_images`` and ``embedding``, and
``projector`` writes files for TensorBoard. ``data_check`` examines the images and labels of a data set, with
``duplicates`` and ``label_errors``.
"""
