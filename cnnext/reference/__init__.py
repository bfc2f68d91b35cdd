"""The definition of every op in plain PyTorch: any dtype, any device, differentiable, slow, and readable.

The parity rule measures every backend against these, in float64.
"""

from cnnext.reference.adaptive_avg_pool2d import adaptive_avg_pool2d
from cnnext.reference.avg_pool2d import avg_pool2d
from cnnext.reference.batch_norm import batch_norm
from cnnext.reference.conv1d import conv1d
from cnnext.reference.conv2d import conv2d
from cnnext.reference.conv_bn_relu import conv_bn_relu
from cnnext.reference.conv_transpose2d import conv_transpose2d
from cnnext.reference.corr2d import corr2d
from cnnext.reference.corr2d_multi import corr2d_multi_in, corr2d_multi_in_out
from cnnext.reference.lp_pool2d import lp_pool2d
from cnnext.reference.max_pool2d import max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_bn_relu",
    "conv_transpose2d",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "lp_pool2d",
    "max_pool2d",
]
