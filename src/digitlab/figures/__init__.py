"""Figures: pictures made from tensors or from run folders. They look at what the other parts do; none depends on them."""
