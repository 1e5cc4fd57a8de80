"""Networks that misbehave on purpose, for the checks. ``DIGITLAB_ALLOW=gpu_checks`` lets a configuration name them."""

from torch import Tensor

from digitlab.models import MLP


class ReadsHost(MLP):
    """An MLP whose forward pass reads a number from the device, so it cannot be captured as a CUDA graph."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, K)."""
        logits: Tensor = super().forward(images)
        return logits + 0.0 * logits.detach().mean().item()
