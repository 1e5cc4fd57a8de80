"""Figures: pictures made from tensors or from run folders. They only read what the other parts wrote."""
