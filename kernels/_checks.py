"""What every kernel does at its border: compare shapes, choose the accumulating dtype, leave autocast."""

import math
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_shapes(**arguments: tuple[Tensor, str]) -> dict[str, int]:
    """Compare tensors with shape patterns, e.g. `q=(q, "B H N D"), k=(k, "B H M D")`.

    A letter takes its size from the first argument that has it; a number must match as it stands.
    Returns letter -> size. Raises ValueError naming the argument that disagrees, with all shapes.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, pattern) in arguments.items():
        check_tensor(**{name: tensor})
        axes = pattern.split()
        known = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes)
        fits = tensor.ndim == len(axes) and all(
            size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
            for axis, size in zip(axes, tensor.shape, strict=True)
        )
        if not fits:
            given = ", ".join(f"{n} {list(t.shape)}" for n, (t, _) in arguments.items() if isinstance(t, Tensor))
            where = f" with {known}" if known else ""
            raise ValueError(f"{name} must be [{', '.join(axes)}]{where}, got {list(tensor.shape)} (given: {given})")
    return sizes


def check_tensor(**values: object) -> None:
    """Raise ValueError for what is not a tensor."""
    for name, value in values.items():
        require(isinstance(value, Tensor), f"{name} must be a tensor, got {type(value).__name__}")


def check_float(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor that is not floating point, or on another device than the first."""
    check_tensor(**tensors)
    for name, tensor in tensors.items():
        require(tensor.is_floating_point(), f"{name} must be floating point, got {tensor.dtype} {list(tensor.shape)}")
    check_device(**tensors)


def check_mask(**masks: Tensor) -> None:
    """Raise ValueError for a mask of numbers that have no order (complex)."""
    for name, mask in masks.items():
        require(not mask.is_complex(), f"{name} must be real or bool, got {mask.dtype} {list(mask.shape)}")


def check_no_nan(**tensors: Tensor) -> None:
    """Raise ValueError for NaN, which would compare as False and pass for a number. Waits for a GPU."""
    for name, tensor in tensors.items():
        require(not bool(tensor.isnan().any()), f"{name} {list(tensor.shape)} holds NaN")


def check_bool(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor that is not bool."""
    check_tensor(**tensors)
    for name, tensor in tensors.items():
        require(tensor.dtype == torch.bool, f"{name} must be bool, got {tensor.dtype} {list(tensor.shape)}")


def check_device(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor on another device than the first."""
    first, home = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        same = tensor.device == home.device
        require(same, f"{name} must be on the device of {first}, {home.device}, got {tensor.device}")


def is_number(value: object) -> bool:
    """Whether it is one real number, also numpy's; infinity is one, NaN and tensors are not."""
    return isinstance(value, Real) and not math.isnan(value)


def is_integer(value: object) -> bool:
    """Whether it is one integer, also numpy's; bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(**numbers: float) -> None:
    """Raise ValueError for what is not one finite real number."""
    for name, number in numbers.items():
        require(is_number(number) and math.isfinite(number), f"{name} must be a finite number, got {number!r}")


def check_count(**counts: int) -> None:
    """Raise ValueError for what is not an integer of 1 or more."""
    for name, count in counts.items():
        require(is_integer(count) and count >= 1, f"{name} must be an integer and at least 1, got {count!r}")


def check_attention(q: Tensor, k: Tensor, scale: float | None) -> tuple[dict[str, int], float]:
    """Sizes B, H, N, D, M of q `[B,H,N,D]` and k `[B,H,M,D]`, and the scale (default D^-0.5); ValueError otherwise."""
    sizes = check_shapes(q=(q, "B H N D"), k=(k, "B H M D"))
    check_float(q=q, k=k)
    require(sizes["H"] > 0 and sizes["D"] > 0, f"q must have at least one head and one channel, got {list(q.shape)}")
    require(sizes["M"] > 0, f"k must have at least one key, got {list(k.shape)}")
    if scale is None:
        return sizes, sizes["D"] ** -0.5
    check_number(scale=scale)
    return sizes, float(scale)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype sums are accumulated in: float64 as soon as one tensor is float64, otherwise float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors in their common accumulating dtype."""
    dtype = compute_dtype(*tensors)
    return tuple(tensor.to(dtype) for tensor in tensors)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, which would round its float32 matrix products to half precision."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _autocast_enabled():  # the usual case: switching off what is off costs as much as a small kernel
            return function(*args, **kwargs)
        kinds = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        kind = "cuda" if "cuda" in kinds else "cpu"
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return run


def _autocast_enabled() -> bool:
    """Whether autocast is on for the CPU or for CUDA."""
    try:
        return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    except TypeError:  # torch before 2.4 takes no device here
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
