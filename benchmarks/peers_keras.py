"""A peer: the same networks in Keras, trained by ``model.fit`` on NumPy arrays. ``peers.py`` chooses the backend."""

import time
from typing import Any

import keras

from workloads import CLASSES, Workload, training_split

# As many as digitlab makes in one compiled call.
UPDATES_PER_CALL = 8


class KerasFit:
    """The constructor trains for one epoch, which compiles. It ignores ``device``: Keras's backend reads it from the
    environment.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        split = training_split(workload)
        self.workload = workload
        # JAX is fastest with channels last.
        self._images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        labels = split.labels.numpy()
        self._targets = keras.utils.to_categorical(labels, CLASSES) if workload.loss == "mse" else labels
        self._model = _compiled(workload, self._images.shape[1:])
        self._fit(epochs=1)

    def epoch_seconds(self) -> list[float]:
        return self._fit(epochs=self.workload.epochs)

    def _fit(self, *, epochs: int) -> list[float]:
        clock = Clock()
        self._model.fit(
            self._images, self._targets, batch_size=self.workload.batch_size, epochs=epochs, verbose=0,
            callbacks=[clock],
        )  # fmt: skip
        return clock.seconds


class Clock(keras.callbacks.Callback):
    """Measures the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started_at = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.started_at)


def _compiled(workload: Workload, image_shape: tuple[int, ...]) -> Any:
    layers = _dense_layers(workload) if workload.hidden else _lenet_layers(workload)
    model = keras.Sequential([keras.Input(image_shape), *layers])
    losses = {
        "mse": keras.losses.MeanSquaredError(),
        "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = optimizers[workload.optimizer](workload.learning_rate)
    model.compile(
        optimizer=optimizer, loss=losses[workload.loss], metrics=["accuracy"], steps_per_execution=UPDATES_PER_CALL
    )
    return model


def _dense_layers(workload: Workload) -> list[Any]:
    dense = keras.layers.Dense
    hidden = [dense(units, activation=workload.activation) for units in workload.hidden]
    output = dense(CLASSES, activation="sigmoid" if workload.loss == "mse" else None)
    return [keras.layers.Flatten(), *hidden, output]


def _lenet_layers(workload: Workload) -> list[Any]:
    layers, activation = keras.layers, workload.activation
    return [
        layers.Conv2D(6, 5, padding="same", activation=activation), layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation=activation), layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(120, activation=activation), layers.Dropout(0.5),
        layers.Dense(84, activation=activation),
        layers.Dense(CLASSES),
    ]  # fmt: skip
