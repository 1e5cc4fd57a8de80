"""Reference row: the same networks in Keras on the JAX backend, ``model.fit`` on NumPy arrays.

Runs in a process of its own (see ``bench.py``). The first epoch compiles and is not counted.
"""

import os
import time
from importlib import import_module
from typing import Any

from workloads import CLASSES, Workload, training_split

REQUIRES = ("keras", "jax")
EPOCHS = 3


def epoch_seconds(workload: Workload, device: str) -> list[float]:
    """Seconds of each epoch but the first; ``device`` is ``cpu`` or ``cuda``."""
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_PLATFORMS"] = device
    # Keras reads its backend when it is imported, and it is an optional extra.
    keras = import_module("keras")
    split = training_split(workload)
    # Channels last, which JAX is fastest with.
    images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    labels = split.labels.numpy()
    clock = _clock(keras)
    targets = keras.utils.to_categorical(labels, CLASSES) if workload.loss == "mse" else labels
    model = _compiled(keras, workload, images.shape[1:])
    model.fit(images, targets, batch_size=workload.batch_size, epochs=EPOCHS, verbose=0, callbacks=[clock])
    return list(clock.seconds[1:])


def _compiled(keras: Any, workload: Workload, image_shape: tuple[int, ...]) -> Any:
    layers = _dense_layers(keras, workload) if workload.hidden else _lenet_layers(keras, workload)
    model = keras.Sequential([keras.Input(image_shape), *layers])
    losses = {
        "mse": keras.losses.MeanSquaredError(),
        "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = optimizers[workload.optimizer](workload.learning_rate)
    model.compile(optimizer=optimizer, loss=losses[workload.loss], metrics=["accuracy"])
    return model


def _dense_layers(keras: Any, workload: Workload) -> list[Any]:
    dense = keras.layers.Dense
    hidden = [dense(units, activation=workload.activation) for units in workload.hidden]
    output = dense(CLASSES, activation="sigmoid" if workload.loss == "mse" else None)
    return [keras.layers.Flatten(), *hidden, output]


def _lenet_layers(keras: Any, workload: Workload) -> list[Any]:
    layers, activation = keras.layers, workload.activation
    return [
        layers.Conv2D(6, 5, padding="same", activation=activation), layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation=activation), layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(120, activation=activation), layers.Dropout(0.5),
        layers.Dense(84, activation=activation),
        layers.Dense(CLASSES),
    ]  # fmt: skip


def _clock(keras: Any) -> Any:
    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.started_at = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.seconds.append(time.perf_counter() - self.started_at)

    return Clock()
