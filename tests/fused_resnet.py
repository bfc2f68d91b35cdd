"""The book's ResNet-18 with its layers' parameters, run by the fused functions, for tests of whole steps."""

import cnnext.functional as F


def stage(conv, norm=None):
    """A convolution and its norm as the fused functions take them."""
    geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
    if norm is None:
        return F.ConvBN(conv.weight, conv.bias, norm=False, **geometry)
    running = (norm.running_mean, norm.running_var)
    return F.ConvBN(
        conv.weight, conv.bias, norm.weight, norm.bias, *running, norm.training, norm.momentum, norm.eps, **geometry
    )


def forward(model, x):
    """What ``model(x)`` of a :class:`cnnext.models.ResNet18` computes."""
    stem, *stages, last = model.net
    x = F.conv_bn_relu_chain(x, (stage(stem[0], stem[1]),))
    x = F.max_pool2d(x, stem[3].kernel_size, stem[3].stride, stem[3].padding)
    for block in (block for blocks in stages for block in blocks):
        stages_of_block = (stage(block.conv1, block.bn1), stage(block.conv2, block.bn2))
        x = F.residual_block(x, stages_of_block, None if block.conv3 is None else stage(block.conv3))
    return last(x)
