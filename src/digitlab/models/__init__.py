"""The networks: plain ``nn.Module``s from normalised images, float (N, C, H, W), to logits (N, K).

They take ``image_shape`` (C, H, W) and ``classes`` K from the data set, know nothing of training, and each states its
settings as the keyword-only arguments of its constructor. ``conf/model/`` names them for the command line.
"""

from digitlab.models.cnn import CNN, LeNet
from digitlab.models.fast_cnn import FastCNN
from digitlab.models.layers import FittedToImages
from digitlab.models.mlp import MLP, Linear

__all__ = ["CNN", "MLP", "FastCNN", "FittedToImages", "LeNet", "Linear"]
