"""conv_bn_relu beside torch's, layer by layer; bench/conftest.py has the options."""

from op_layers import test_layer

OP = "conv_bn_relu"
__all__ = ["OP", "test_layer"]
