"""The networks: plain ``nn.Module``s from normalised images, float (N, C, H, W), to logits (N, K).

They take ``image_shape`` (C, H, W) and ``classes`` (K) from the data set and know nothing about training. The other
keyword-only arguments of a constructor are the settings of the network; ``conf/model/`` gives them names and defaults.
``training.Classifier`` builds them.
"""

from digitlab.models.cnn import CNN, LeNet
from digitlab.models.fast_cnn import FastCNN
from digitlab.models.layers import FittedToImages
from digitlab.models.mlp import MLP, Linear
from digitlab.models.torchvision_network import TorchvisionNetwork

__all__ = ["CNN", "MLP", "FastCNN", "FittedToImages", "LeNet", "Linear", "TorchvisionNetwork"]
