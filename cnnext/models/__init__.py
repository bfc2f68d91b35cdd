"""The chapters' models, built from cnnext's layers or, with ``layers=torch.nn``, from torch's."""

from cnnext.models.base import Model, init_cnn
from cnnext.models.lenet import LeNet
from cnnext.models.resnet import ResNet, ResNet18, ResNeXt
from cnnext.models.vgg import VGG, VGG11, VGG11_SLIM, VGG13, VGG16, VGG19

__all__ = [
    "LeNet",
    "Model",
    "ResNeXt",
    "ResNet",
    "ResNet18",
    "VGG",
    "VGG11",
    "VGG11_SLIM",
    "VGG13",
    "VGG16",
    "VGG19",
    "init_cnn",
]
