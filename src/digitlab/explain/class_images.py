"""Makes an image for each class that maximises the score of the class: activation maximisation by gradient ascent.

Without regularisers the images are noise that fools the network (Simonyan et al., 2014). As usual, random shifts, a
penalty for differences between neighbouring pixels, a penalty for differences from an empty image, and blurring keep
them simple (Yosinski et al., 2015; Olah et al., 2017). ``learned`` draws the images. Shapes: K classes, C channels, H
rows, W columns.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from digitlab.explain.network import PixelNetwork

# The gradient ascent: steps of Adam, and its learning rate.
_STEPS, _RATE = 256, 0.1
# The weights of the mean absolute difference of neighbouring pixels, and of the mean squared difference from the colour
# of an empty image, in units of a logit.
_VARIATION, _CONTENT = 40.0, 10.0
# The largest random shift, and the number of steps between two blurs. The last quarter of all steps has no blur.
_SHIFT_PIXELS, _BLUR_EVERY = 2, 8


def class_images(network: PixelNetwork, *, empty: Tensor, size: tuple[int, int], classes: int) -> Tensor:
    """Return one image for each class, float (K, C, H, W) in [0, 1]; the same network gives the same images.

    ``empty`` (C,) is the colour of an image without content, from which the ascent starts; ``size`` is (H, W).
    """
    generator = torch.Generator().manual_seed(0)
    # The logits of 0 and 1 are infinite.
    start = empty.float().clamp(0.05, 0.95).view(1, -1, 1, 1).expand(classes, -1, *size)
    # ``values`` are the logits of the pixels: their sigmoid, the image, stays in [0, 1].
    values = (start.logit() + 0.1 * torch.randn(start.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=_RATE)
    labels = torch.arange(classes)
    for step in range(_STEPS):
        rows, columns = torch.randint(-_SHIFT_PIXELS, _SHIFT_PIXELS + 1, (2,), generator=generator).tolist()
        images = values.sigmoid()
        logits = network(images.roll((rows, columns), (2, 3)))
        # The logits of other classes can grow together with that of the class. So maximise its log-probability as well.
        log_probability = logits[labels, labels] - logits.logsumexp(1)
        penalty = _VARIATION * _variation(images) + _CONTENT * ((images - start) ** 2).mean((1, 2, 3))
        loss = (penalty - logits[labels, labels] - log_probability).sum()
        # Not backward, which would also fill the gradients of the network's parameters.
        (values.grad,) = torch.autograd.grad(loss, [values])
        optimizer.step()
        if step % _BLUR_EVERY == _BLUR_EVERY - 1 and step < 0.75 * _STEPS:
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
