"""The definition of every op in plain PyTorch: any dtype, any device, differentiable, slow, and readable.

The parity rule measures every backend against these, in float64.
"""

from cnnext.reference.batch_norm import batch_norm
from cnnext.reference.conv2d import conv2d
from cnnext.reference.corr2d import corr2d

__all__ = ["batch_norm", "conv2d", "corr2d"]
