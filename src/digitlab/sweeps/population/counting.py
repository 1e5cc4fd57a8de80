"""Confusion matrices of all members at once."""

import torch
from torch import Tensor


def confusions(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (M, n, K) and labels int64 (M, n) to counts int64 (M, K, K), true class by predicted class."""
    members, _, classes = logits.shape
    first_cell = torch.arange(members, device=logits.device).unsqueeze(1) * classes * classes
    cells = first_cell + labels * classes + logits.max(2).indices
    return torch.bincount(cells.flatten(), minlength=members * classes * classes).view(members, classes, classes)
