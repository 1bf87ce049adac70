"""What every kernel does at its border: compare shapes, choose the accumulating dtype, leave autocast."""

from collections.abc import Callable
from functools import wraps
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
        require(isinstance(tensor, Tensor), f"{name} must be a tensor, got {type(tensor).__name__}")
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


def check_float(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor that is not floating point."""
    for name, tensor in tensors.items():
        require(tensor.is_floating_point(), f"{name} must be floating point, got {tensor.dtype}")


def check_bool(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor that is not bool."""
    for name, tensor in tensors.items():
        require(tensor.dtype == torch.bool, f"{name} must be bool, got {tensor.dtype} {list(tensor.shape)}")


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
        kinds = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        kind = "cuda" if "cuda" in kinds else "cpu"
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return run
