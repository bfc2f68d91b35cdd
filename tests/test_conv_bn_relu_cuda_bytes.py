"""What the fused residual block reads and writes on the CUDA kernels, beside the same block layer by layer."""

import block_bytes
import emulated
import pytest
import torch

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

FORWARD_ALLOWED = 0.6
"""Of the bytes of the layers one by one."""
SHAPE = (4, 16, 24, 24)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bytes_of_a_block(dtype, channels_last):
    fused, unfused = (
        block_bytes.count(block, dtype, channels_last, SHAPE) for block in (block_bytes.fused, block_bytes.of_torch)
    )
    assert fused.forward <= FORWARD_ALLOWED * unfused.forward, (fused, unfused)
    assert fused.backward < unfused.backward, (fused, unfused)


def test_the_count_of_what_the_definition_moves():
    """Layer by layer: two convolutions, norms of two passes, a sum and two ReLUs, of whole tensors."""
    moved = block_bytes.count(block_bytes.of_torch, torch.float32, False, SHAPE).forward
    activation = 4 * torch.Size(SHAPE).numel()
    assert 17 * activation < moved < 17.5 * activation
