"""What float32 convolutions may be calculated with besides float32: TF32 and Winograd's algorithm."""

from __future__ import annotations

import torch

from cnnext.registration import constant_when_compiled


def float32_shortcuts(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Return the arguments ``allow_tf32`` and ``allow_winograd`` of the conv2d ops for inputs like ``tensor``.

    TF32 is a matter of GPUs, and follows torch's switch for cuDNN's convolutions
    (``torch.backends.cudnn.allow_tf32``, or its successor ``torch.backends.cudnn.conv.fp32_precision``).
    Winograd's algorithm is not asked for: no backend has it yet.
    """
    if tensor.device.type != "cuda" or tensor.dtype != torch.float32:
        return False, False
    return _torch_allows_tf32(), False


@constant_when_compiled
def _torch_allows_tf32() -> bool:
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]
