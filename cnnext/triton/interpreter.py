"""Corrections of Triton's interpreter, so that a kernel computes under it what it computes when compiled.

The interpreter keeps bfloat16 as its bits in ``uint16``. It truncates where a compiled cast rounds to nearest even,
and multiplies the bits themselves in ``tl.dot``. It rounds in the middle of ``tl.fma``. ``tl.sum`` adds values one by
one where threads add them as a tree.

Besides, what it spends most of its time on: it patches the language anew for every launch and every function that a
kernel calls, and looks for integers that overflow by a dozen interpreted operations for each of the kernel's. Both are
done here at a tenth of the cost. Used only where ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def correct() -> None:
    """Replace the casts from and to bfloat16, the matrix product, fma and the sum of the interpreter; hasten it."""
    _patch_once()
    _check_overflow_in_place()
    builder: Any = interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        to = target.scalar
        if source.dtype.scalar == tl.bfloat16:
            wide = interpreter.TensorHandle(_to_float(source.data), tl.float32)
            return wide if to == tl.float32 else cast(self, wide, target)
        if to == tl.bfloat16:
            return interpreter.TensorHandle(_to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, target)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, _widened(a), _widened(b), *others)

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        exact = x.data.astype(np.float64) * y.data + z.data  # of float32; float64 stays as it is
        return interpreter.TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    def add(self: Any, values: Any) -> Any:
        data = values.handle.data
        rows = data.reshape(-1) if self.axis is None else np.moveaxis(data, self.axis, -1)
        while rows.shape[-1] > 1:  # a power of two
            half = rows.shape[-1] // 2
            rows = rows[..., :half] + rows[..., half:]
        total = rows[..., 0]
        if self.keep_dims:
            total = np.expand_dims(total, tuple(range(data.ndim)) if self.axis is None else self.axis)
        return self.to_tensor(total, values.dtype)

    builder.cast_impl, builder.create_dot, builder.create_fma = cast_impl, create_dot, create_fma
    interpreter.ReduceOps.sum = add


class _Kept:
    """Stands for the scope of a patch that is not taken back: where kernels are interpreted, all of them are."""

    def restore(self) -> None:
        pass


def _patch_once() -> None:
    patch, patched = interpreter._patch_lang, set[Any]()

    def patch_lang(function: Any) -> _Kept:
        seen = {value for value in function.__globals__.values() if value is tl or value is tl.core}
        if not seen <= patched:
            patch(function)
            patched.update(seen)
        return _Kept()

    interpreter._patch_lang = patch_lang


def _check_overflow_in_place() -> None:
    builder: Any = interpreter.InterpreterBuilder

    def checked(operation: Any) -> Any:
        def apply(self: Any, x: Any, y: Any) -> Any:
            if x.data.dtype.itemsize == 8:
                return self.binary_op(x, y, operation)
            exact = operation(x.data.astype(np.int64), y.data)
            data = exact.astype(x.data.dtype)
            assert (data == exact).all(), f"{x.dtype} overflows in {operation.__name__}"
            return interpreter.TensorHandle(data, x.dtype.scalar)

        return apply

    builder.create_add, builder.create_sub, builder.create_mul = map(checked, (np.add, np.subtract, np.multiply))
    running = interpreter.interpreter_builder
    running.options = dataclasses.replace(running.options, sanitize_overflow=False)


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return interpreter.TensorHandle(_to_float(handle.data), tl.float32)


def _to_float(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, of two equally near ones the even one; a NaN stays one."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
