"""avg_pool2d beside torch's, layer by layer; bench/conftest.py has the options."""

from op_layers import test_layer

OP = "avg_pool2d"
__all__ = ["OP", "test_layer"]
