"""The definition of every op in plain PyTorch: any dtype, any device, differentiable, slow, and readable.

The parity rule measures every backend against these, in float64.
"""

from cnnext.reference.adaptive_avg_pool2d import adaptive_avg_pool2d
from cnnext.reference.avg_pool2d import avg_pool2d
from cnnext.reference.batch_norm import batch_norm
from cnnext.reference.conv2d import conv2d
from cnnext.reference.corr2d import corr2d
from cnnext.reference.max_pool2d import max_pool2d

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "conv2d", "corr2d", "max_pool2d"]
