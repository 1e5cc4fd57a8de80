"""Figures: pictures made from tensors or from run folders. They look at the other parts, and none depends on them."""
