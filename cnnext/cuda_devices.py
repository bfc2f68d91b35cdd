"""Which GPUs the CUDA library runs on, and what is said of the others."""

from __future__ import annotations

import functools

import torch

from cnnext import library
from cnnext._build import CUDA, Code, architectures, read_code


@functools.cache
def loaded_code() -> Code | None:
    """For what the loaded CUDA library is built; None if none is loaded."""
    file = library.loaded(CUDA)
    return None if file is None else read_code(file)


def refusal(device: torch.device) -> str | None:
    """Why the loaded CUDA library cannot run on ``device``; None if it can."""
    code = loaded_code()
    assert code is not None
    if not torch.cuda.is_available():
        return "torch finds no GPU it can use"
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    driver = getattr(torch._C, "_cuda_getDriverVersion")()  # noqa: B009  (torch without CUDA has none)
    return refusal_of(properties.name, capability, driver, code)


def refusal_of(name: str, capability: tuple[int, int], driver: int, code: Code) -> str | None:
    """Why a library cannot run on a GPU, and what to do; None if it can.

    Args:
        name: the GPU's.
        capability: its compute capability, (8, 6) say.
        driver: the newest CUDA that the driver supports, 13000 for 13.0.
        code: what the library holds.
    """
    its = "{}.{}".format(*capability)
    if capability < architectures.OLDEST:
        return f"{name} has compute capability {its}, and the kernels need 7.5 or newer"
    major, minor = (int(part) for part in code.toolkit.split(".")[:2])
    toolkit, supports = 1000 * major + 10 * minor, f"{driver // 1000}.{driver % 1000 // 10}"
    if driver < 1000 * major:
        return (
            f"the driver supports CUDA {supports}, and the library is built with CUDA {code.toolkit}: update the "
            f"driver, or install torch for CUDA {supports} and cnnext again"
        )
    if architectures.has_machine_code(capability, code.architectures):
        return None
    holds = f"the library holds code for {', '.join(code.architectures)}, and {name} has compute capability {its}"
    rebuild = f"build it again with TORCH_CUDA_ARCH_LIST={its}"
    if not architectures.has_intermediate_code(capability, code.architectures):
        return f"{holds}: {rebuild}"
    if driver < toolkit:  # PTX is compiled by the driver, which does not know a newer toolkit's
        return (
            f"{holds}; a driver for CUDA {supports} cannot compile the PTX of CUDA {code.toolkit}: "
            f"update the driver, or {rebuild}"
        )
    return None
