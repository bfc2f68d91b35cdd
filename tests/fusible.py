"""Networks in torch's layers, written in the ways that people write them, with chains to be fused."""

import torch
from torch.nn import BatchNorm2d, Conv2d, MaxPool2d, Module, ReLU, Sequential
from torch.nn.functional import relu

import cnnext.functional as F


def record_chains(monkeypatch):
    """A list that grows by the number of stages at each call of the fused op."""
    seen, chain = [], F.conv_bn_relu_chain

    def recorded(x, stages, *rest):
        seen.append(len(stages))
        return chain(x, stages, *rest)

    monkeypatch.setattr(F, "conv_bn_relu_chain", recorded)
    return seen


class Block(Module):
    """A basic block as torchvision writes it."""

    def __init__(self, channels, out, stride=1):
        super().__init__()
        self.conv1 = Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm2d(out)
        self.relu = ReLU(inplace=True)
        self.conv2 = Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(out)
        self.downsample = None
        if stride > 1:
            self.downsample = Sequential(Conv2d(channels, out, 1, stride, bias=False), BatchNorm2d(out))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Net(Module):
    def __init__(self):
        super().__init__()
        self.conv1 = Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(8)
        self.relu = ReLU(inplace=True)
        self.maxpool = MaxPool2d(2)
        self.layer1 = Sequential(Block(8, 8), Block(8, 12, 2))
        self.fc = torch.nn.Linear(12, 5)

    def forward(self, x):
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(x.mean((2, 3)), 1))


class Functional(Module):
    """ReLUs and sums as functions and methods, convolutions with a bias and without a norm."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList(Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.norm = BatchNorm2d(3)

    def forward(self, x):
        x = relu(self.convs[0](x), inplace=True)
        x = torch.relu(x + self.norm(self.convs[1](x)))
        x = x.add(self.convs[2](x)).relu()
        return self.convs[3](x) + 1


class Nested(Module):
    """Chains through containers, as in RegNet and MobileNet."""

    def __init__(self):
        super().__init__()
        self.f = Sequential(
            Sequential(Conv2d(3, 6, 1), BatchNorm2d(6), ReLU(inplace=True)),
            Sequential(Conv2d(6, 6, 3, padding=1, groups=2), Sequential(BatchNorm2d(6), ReLU())),
            Sequential(Conv2d(6, 3, 1), BatchNorm2d(3)),
        )
        self.proj = Sequential(Conv2d(3, 3, 1), BatchNorm2d(3))
        self.activation = ReLU(inplace=True)

    def forward(self, x):
        return self.activation(self.proj(x) + self.f(x))


def vgg():
    return Sequential(
        Conv2d(3, 4, 3, padding=1), ReLU(inplace=True), Conv2d(4, 4, 3, padding=1), ReLU(inplace=True), MaxPool2d(2)
    )


CHAINS = {
    Net: {
        "conv1": "conv1 → bn1 → relu",
        "layer1.0.conv1": "conv1 → bn1 → relu → conv2 → bn2 → add → relu",
        "layer1.1.conv1": "conv1 → bn1 → relu → conv2 → bn2 → add → relu",
        "layer1.1.downsample.0": "downsample.0 → downsample.1",
    },
    Functional: {
        "convs.0": "convs.0 → relu",
        "convs.1": "convs.1 → norm → add → relu",
        "convs.2": "convs.2 → add → relu",
    },
    Nested: {
        "f.0.0": "f.0.0 → f.0.1 → f.0.2 → f.1.0 → f.1.1.0 → f.1.1.1 → f.2.0 → f.2.1 → add → activation",
        "proj.0": "proj.0 → proj.1",
    },
    vgg: {"0": "0 → 1 → 2 → 3"},
}
"""The chains of each network, by the name of their first layer."""
