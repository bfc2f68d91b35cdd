"""Our own implementations of an op, for tests of what torch's does not share: texts of refusals, registered ops."""

import torch

from cnnext.registration import NAMESPACES
from cnnext.testing import present_backends


def own_backends(op):
    """The backends present for ``op`` but torch's."""
    return [name for name in present_backends(op) if name != "torch"]


def own_namespaces(op):
    """The namespaces with kernels for ``op`` on CPU tensors, so that ``torch.ops.<namespace>.<op>`` can be called."""
    names = [namespace for namespace in NAMESPACES if hasattr(getattr(torch.ops, namespace), op)]
    return [name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(f"{name}::{op}", "CPU")]
