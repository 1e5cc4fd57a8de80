"""Makes an image for each class that maximises the score of the class: activation maximisation by gradient ascent.

Without regularisers the images are noise that fools the network (Simonyan et al., 2014). As usual, random shifts, a
penalty for differences between neighbouring pixels, a penalty for differences from an empty image, and blurring keep
them simple (Yosinski et al., 2015; Olah et al., 2017). Shapes: K classes, C channels, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from digitlab.explain.network import PixelNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascent:
    """The settings of the gradient ascent: ``steps`` of Adam with the learning rate ``rate``.

    ``variation`` and ``content`` are the weights of the mean absolute difference of neighbouring pixels and of the mean
    squared difference from the colour of an empty image, in units of a logit. ``shift_pixels`` is the largest random
    shift. The image is blurred after every ``blur_every`` steps, except in the last quarter of all steps.
    """

    steps: int = 256
    rate: float = 0.1
    variation: float = 40.0
    content: float = 10.0
    shift_pixels: int = 2
    blur_every: int = 8


def class_images(
    network: PixelNetwork, *, empty: Tensor, size: tuple[int, int], classes: int, ascent: Ascent | None = None
) -> Tensor:
    """Return one image for each class, float (K, C, H, W) in [0, 1]; the same network gives the same images.

    ``empty`` (C,) is the colour of an image without content, from which the ascent starts; ``size`` is (H, W).
    """
    ascent = Ascent() if ascent is None else ascent
    generator = torch.Generator().manual_seed(0)
    start = empty.float().clamp(0.05, 0.95).view(1, -1, 1, 1).expand(classes, -1, *size)
    # ``values`` are the logits of the pixels: their sigmoid, the image, stays in [0, 1].
    values = (start.logit() + 0.1 * torch.randn(start.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=ascent.rate)
    labels = torch.arange(classes)
    for step in range(ascent.steps):
        rows, columns = torch.randint(-ascent.shift_pixels, ascent.shift_pixels + 1, (2,), generator=generator).tolist()
        images = values.sigmoid()
        logits = network(images.roll((rows, columns), (2, 3)))
        # The logits of other classes can grow together with that of the class. So maximise its log-probability as well.
        log_probability = logits[labels, labels] - logits.logsumexp(1)
        penalty = ascent.variation * _variation(images) + ascent.content * ((images - start) ** 2).mean((1, 2, 3))
        loss = (penalty - logits[labels, labels] - log_probability).sum()
        (values.grad,) = torch.autograd.grad(loss, [values])
        optimizer.step()
        if step % ascent.blur_every == ascent.blur_every - 1 and step < 0.75 * ascent.steps:
            with torch.no_grad():
                values.copy_(_blurred(values))
    return values.detach().sigmoid()


def _variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of each image (K,)."""
    return images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))


def _blurred(values: Tensor) -> Tensor:
    """Blur each channel a little: half of a new value comes from the pixel itself, half from its eight neighbours."""
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 12.0, 2.0], [1.0, 2.0, 1.0]]) / 24
    flat = pad(values.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    return conv2d(flat, kernel.view(1, 1, 3, 3)).view_as(values)
