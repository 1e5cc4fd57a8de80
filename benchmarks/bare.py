"""The bare PyTorch loop that digitlab is measured against: the training step and nothing else.

No metrics, no logging, no checks and no validation; the images are one normalised float tensor on the device. Of the
usual ways to take a mini-batch, ``index_select`` was the fastest.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads import CLASSES, TrainingSplit, Workload

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class BareLoop:
    """Images, labels and loss of one workload on ``device``, made ready once for all rounds."""

    def __init__(self, workload: Workload, split: TrainingSplit, device: torch.device) -> None:
        self.workload, self.device = workload, device
        self.image_shape = tuple(split.images.shape[1:])
        # An MLP's images are flat from the start, and targets of the squared error one-hot: no step has to do it.
        self.images = (split.images.flatten(1) if workload.hidden else split.images).to(device)
        labels = F.one_hot(split.labels, CLASSES).float() if workload.loss == "mse" else split.labels
        self.targets = labels.to(device)
        self.loss = _sigmoid_mse if workload.loss == "mse" else F.cross_entropy

    def epoch_seconds(self) -> list[float]:
        """Seconds of each epoch of one round, with a new network."""
        model = network(self.workload, self.image_shape).to(self.device)
        build = _OPTIMIZERS[self.workload.optimizer]
        optimizer = build(model.parameters(), lr=self.workload.learning_rate, fused=True)
        seconds = []
        for _ in range(self.workload.epochs):
            self._wait()
            started_at = time.perf_counter()
            self._epoch(model, optimizer)
            self._wait()
            seconds.append(time.perf_counter() - started_at)
        return seconds

    def _epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        images, targets, loss_of = self.images, self.targets, self.loss
        order = torch.randperm(len(images), device=self.device)
        for index in order.split(self.workload.batch_size):
            loss = loss_of(model(images.index_select(0, index)), targets.index_select(0, index))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _wait(self) -> None:
        # A GPU works on after Python has asked it to.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _sigmoid_mse(logits: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(logits.sigmoid(), targets)


def network(workload: Workload, image_shape: tuple[int, ...]) -> nn.Sequential:
    """The network of ``workload``: flat images (N, C · H · W) to logits (N, K), for LeNet (N, C, H, W) to (N, K)."""
    activation = _ACTIVATIONS[workload.activation]
    if not workload.hidden:
        return _lenet(image_shape, activation)
    layers: list[nn.Module] = []
    fan_in = torch.Size(image_shape).numel()
    for units in workload.hidden:
        layers += [nn.Linear(fan_in, units), activation()]
        fan_in = units
    return nn.Sequential(*layers, nn.Linear(fan_in, CLASSES))


def _lenet(image_shape: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    # For 28 x 28 images, which are padded to 32 x 32.
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 6, kernel_size=5, padding=2), activation(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), activation(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), activation(), nn.Dropout(0.5),
        nn.Linear(120, 84), activation(),
        nn.Linear(84, CLASSES),
    )  # fmt: skip
