"""The bare PyTorch loops that ``bench.py`` compares digitlab with: the training step and nothing else.

They have no metrics, no logging, no checks and no validation; the images are one normalised float tensor on the device.
They take the images of a mini-batch with ``index_select``, which was the fastest of the usual ways. A workload is a
network with its data set and update rule; a round trains a new network for a few epochs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitlab.engine.cpu_tuning import threads as use_threads
from digitlab.engine.device import float32_products
from workloads import CLASSES, TrainingSplit, Workload

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class BareLoop:
    """An eager loop that trains one workload on ``device``; images and labels are prepared once for all rounds.

    ``threads`` is the number of processor threads that PyTorch uses in a round; None does not change it.
    ``channels_last`` stores images and filters in that memory format, as digitlab does for networks that convolve. On
    CUDA, matrix products and convolutions use TF32, as all rows of the benchmark do there.
    """

    def __init__(
        self,
        workload: Workload,
        split: TrainingSplit,
        device: torch.device,
        *,
        threads: int | None = None,
        channels_last: bool = False,
    ) -> None:
        self.workload, self.device = workload, device
        self.threads, self.channels_last = threads, channels_last
        self.image_shape = tuple(split.images.shape[1:])
        # Flat images for an MLP and one-hot targets for the squared error, so that no step has to make them.
        images = (split.images.flatten(1) if workload.hidden else split.images).to(device)
        self.images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
        labels = F.one_hot(split.labels, CLASSES).float() if workload.loss == "mse" else split.labels
        self.targets = labels.to(device)
        self.loss = _sigmoid_mse if workload.loss == "mse" else F.cross_entropy

    def epoch_seconds(self) -> list[float]:
        """Train a new network for one round; return the seconds of each epoch."""
        seconds = []
        with self._settings():
            model = self.new_model()
            epoch = self.prepare(model, self.new_optimizer(model))
            for _ in range(self.workload.epochs):
                self._wait()
                started_at = time.perf_counter()
                epoch()
                self._wait()
                seconds.append(time.perf_counter() - started_at)
        return seconds

    def new_model(self) -> nn.Sequential:
        """Return the network of the workload on the device, with new initial weights."""
        model = network(self.workload, self.image_shape).to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the workload, which updates all parameters in one call (fused)."""
        build = _OPTIMIZERS[self.workload.optimizer]
        return build(model.parameters(), lr=self.workload.learning_rate, fused=True)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Return a function that trains ``model`` for one epoch."""

        def epoch() -> None:
            for index in self.new_order().split(self.workload.batch_size):
                self.step(model, optimizer, index)

        return epoch

    def new_order(self) -> Tensor:
        """Return the indices of all images in random order, int64 (N,), on the device."""
        return torch.randperm(len(self.images), device=self.device)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, index: Tensor) -> None:
        """Make one update on the images with these indices (n,)."""
        loss = self.loss(model(self.images.index_select(0, index)), self.targets.index_select(0, index))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        with float32_products(self.device, 32), use_threads(self.threads or torch.get_num_threads()):
            yield

    def _wait(self) -> None:
        # A GPU is still at work when the call that started the work returns.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class GraphLoop(BareLoop):
    """The same loop with CUDA graphs that are written by hand: eight updates are captured once and then replayed.

    The indices of the mini-batches are copied into a static buffer before each replay. Mini-batches that do not fill
    eight updates use a graph of one update, and the smaller mini-batch at the end of an epoch uses one of its own size.
    Without CUDA the same functions run without capture, so that a test can compare them with ``BareLoop``.
    """

    UPDATES = 8

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer as in ``BareLoop``, but Adam counts its steps on the device, where a graph can do it."""
        build, options = _OPTIMIZERS[self.workload.optimizer], {"fused": True}
        if self.workload.optimizer == "adam" and self.device.type == "cuda":
            options["capturable"] = True
        return build(model.parameters(), lr=self.workload.learning_rate, **options)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Capture the graphs; return a function that trains ``model`` for one epoch."""
        size, count = self.workload.batch_size, len(self.images)
        shapes = {(self.UPDATES, size), (1, size), (1, count % size)}
        calls = {
            shape: self._capture(model, optimizer, torch.zeros(shape, dtype=torch.int64, device=self.device))
            for shape in sorted(shapes, reverse=True)
            if shape[1] > 0
        }

        # Blocks of eight mini-batches come first, then single mini-batches, then the smaller one.
        def epoch() -> None:
            order, start = self.new_order(), 0
            for shape, call in calls.items():
                block = shape[0] * shape[1]
                while count - start >= block:
                    call(order[start : start + block].view(shape))
                    start += block

        return epoch

    def _capture(self, model: nn.Module, optimizer: torch.optim.Optimizer, buffer: Tensor) -> Callable[[Tensor], None]:
        """Return a function that copies indices (updates, n) into ``buffer`` (same shape) and makes the updates."""
        run = partial(self._updates, model, optimizer, buffer)
        replay = _captured(run, model, optimizer) if self.device.type == "cuda" else run

        def call(indices: Tensor) -> None:
            buffer.copy_(indices)
            replay()

        return call

    def _updates(self, model: nn.Module, optimizer: torch.optim.Optimizer, buffer: Tensor) -> None:
        for index in buffer.unbind():
            self.step(model, optimizer, index)


def _captured(run: Callable[[], None], model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Capture ``run`` as a CUDA graph; return a function that replays it. Weights and optimizer state stay as before.

    PyTorch requires a few runs on another stream before a capture, in which the libraries allocate what they need. They
    change the weights and the optimizer state, so both get their old values back. These are copied into the same
    tensors, because the graph contains the addresses of the tensors.
    """
    parameters = list(model.parameters())
    old_weights = [parameter.detach().clone() for parameter in parameters]
    old_state = {
        (parameter, name): value.clone()
        for parameter, state in optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    with torch.no_grad():
        for parameter, old_weight in zip(parameters, old_weights, strict=True):
            parameter.copy_(old_weight)
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    # State that the optimizer creates in its first step starts at zero.
                    value.copy_(old_state.get((parameter, name), torch.zeros_like(value)))
    return graph.replay


def _sigmoid_mse(logits: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(logits.sigmoid(), targets)


def network(workload: Workload, image_shape: tuple[int, ...]) -> nn.Sequential:
    """Return the network of ``workload``: from images (N, C · H · W), for LeNet (N, C, H, W), to logits (N, K)."""
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
