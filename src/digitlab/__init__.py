"""digitlab: small image-classification experiments on MNIST, Fashion-MNIST and CIFAR-10.

Nothing is imported here but what is asked for, so that ``train.py --help`` answers without torch.
"""
