"""Hand-written kernels for the layers of convolutional networks, as differentiable PyTorch ops and layers."""

from cnnext import library, registration

if library.cpu_unavailable is None:
    registration.register_namespace("cnnext")

from cnnext import (
    functional,  # noqa: E402  (declares the ops; the namespace is registered first)
    nn,  # noqa: E402
)
from cnnext.backends import backend, backends  # noqa: E402
from cnnext.nn.swap import swap, unswap  # noqa: E402
from cnnext.ops.precision import allow_winograd  # noqa: E402

__version__ = "0.1.0"

__all__ = ["__version__", "allow_winograd", "backend", "backends", "functional", "nn", "swap", "unswap"]
