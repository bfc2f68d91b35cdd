"""The public functions, with torch.nn.functional's names, argument order and defaults.

Each lives, with its contract, in ``cnnext/ops/<op>.py``.
"""

from cnnext.ops.adaptive_avg_pool2d import adaptive_avg_pool2d
from cnnext.ops.avg_pool2d import avg_pool2d
from cnnext.ops.batch_norm import batch_norm
from cnnext.ops.conv1d import conv1d
from cnnext.ops.conv2d import conv2d
from cnnext.ops.conv_bn_relu import conv_bn_relu, conv_bn_relu_chain, conv_relu, residual_block
from cnnext.ops.conv_bn_relu_chain import fold_batch_norm
from cnnext.ops.conv_bn_relu_stage import ConvBN
from cnnext.ops.conv_transpose2d import conv_transpose2d
from cnnext.ops.corr2d import corr2d
from cnnext.ops.corr2d_multi import corr2d_multi_in, corr2d_multi_in_out, corr2d_multi_in_out_1x1
from cnnext.ops.lp_pool2d import lp_pool2d
from cnnext.ops.max_pool2d import max_pool2d
from cnnext.ops.pool2d import pool2d
from cnnext.ops.stochastic_pool2d import stochastic_pool2d

__all__ = [
    "ConvBN",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_bn_relu",
    "conv_bn_relu_chain",
    "conv_relu",
    "conv_transpose2d",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "corr2d_multi_in_out_1x1",
    "fold_batch_norm",
    "lp_pool2d",
    "max_pool2d",
    "pool2d",
    "residual_block",
    "stochastic_pool2d",
]
