"""The public functions, with torch.nn.functional's names, argument order and defaults.

Each lives, with its contract, in ``cnnext/ops/<op>.py``.
"""

from cnnext.ops.batch_norm import batch_norm
from cnnext.ops.conv2d import conv2d
from cnnext.ops.corr2d import corr2d

__all__ = ["batch_norm", "conv2d", "corr2d"]
