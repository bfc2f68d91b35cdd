"""batch_norm beside torch's, layer by layer; bench/conftest.py has the options."""

from op_layers import test_layer

OP = "batch_norm"
__all__ = ["OP", "test_layer"]
