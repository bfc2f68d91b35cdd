"""GPU architectures: which ones a library is built for, and which devices its code runs on.

A library holds machine code for some compute capabilities and, marked ``+PTX``, an intermediate code that the driver
compiles at the first use, for devices newer than the library. (CUDA C++ Programming Guide, "Binary compatibility" and
"PTX compatibility".)
"""

from __future__ import annotations

import re

OLDEST = (7, 5)
DEFAULT = "7.5;8.0+PTX"
"""Where no GPU is in sight: minutes to build, and it runs on every device from 7.5 on."""
WHEEL = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
"""Machine code for every family, for a library that is built once and installed in many places."""


def parse(text: str) -> list[str]:
    """The architectures of a ``TORCH_CUDA_ARCH_LIST``, each ``8.0`` or ``8.0+PTX``, without those too old.

    Raises:
        ValueError: an item is no compute capability, or all are older than 7.5. The text says which.
    """
    items = [item for item in re.split(r"[;,\s]+", text) if item]
    for item in items:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", item):
            raise ValueError(f"TORCH_CUDA_ARCH_LIST={text!r}: {item!r} is no compute capability such as 8.0 or 9.0+PTX")
    known = [item for item in items if capability(item) >= OLDEST]
    if not known:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST={text!r} names no compute capability of 7.5 or newer, which we need")
    return sorted(set(known), key=lambda item: (capability(item), item))


def capability(item: str) -> tuple[int, int]:
    """(9, 0) of ``9.0``, ``9.0a`` or ``9.0+PTX``."""
    major, _, rest = item.partition(".")
    return int(major), int(rest[0])


def for_devices(capabilities: list[tuple[int, int]], supported: list[tuple[int, int]]) -> str:
    """The list for the GPUs of this machine, by a compiler that knows ``supported``; DEFAULT if that gives none."""
    wanted = {device for device in capabilities if device >= OLDEST}
    exact = sorted(wanted & set(supported))
    items = [f"{major}.{minor}" for major, minor in exact]
    if wanted - set(exact):  # newer than the compiler: the driver compiles for it
        older = [known for known in supported if OLDEST <= known <= max(wanted)]
        items += [f"{major}.{minor}+PTX" for major, minor in older[-1:]]
    return ";".join(items) or DEFAULT


def nvcc_flags(architectures: list[str]) -> list[str]:
    """What makes nvcc produce that code."""
    flags = []
    for item in architectures:
        number = item.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}", *([f"compute_{number}"] if item.endswith("+PTX") else [])]
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


def has_machine_code(device: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a device runs the library's code as it is: same major number, minor at least the code's."""
    return any(
        (found := capability(item))[0] == device[0] and (found[1] == device[1] or found[1] < device[1] and "a" not in item)
        for item in architectures
    )


def has_intermediate_code(device: tuple[int, int], architectures: list[str]) -> bool:
    """Whether the driver can compile the library's code for a device."""
    return any(item.endswith("+PTX") and capability(item) <= device for item in architectures)
