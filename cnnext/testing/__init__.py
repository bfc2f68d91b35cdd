"""What the tests and the benchmarks share: named shapes, tensors with poison around them, and the parity rule."""

from cnnext.testing import cases
from cnnext.testing.parity import (
    Parity,
    assert_as_exact_as_torch,
    assert_as_exact_as_winograd,
    assert_gradients_as_exact_as_torch,
    measure_parity,
)
from cnnext.testing.tensors import make_tensor, present_backends

__all__ = [
    "Parity",
    "assert_as_exact_as_torch",
    "assert_as_exact_as_winograd",
    "assert_gradients_as_exact_as_torch",
    "cases",
    "make_tensor",
    "measure_parity",
    "present_backends",
]
