"""What `ComfyHost.gradients` is made of: models loaded whole, and weights and tensors that autograd accepts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input


def without_dynamic_memory(patcher: Any) -> Any:
    """The patcher itself, or under dynamic VRAM one whose weights stay where they are during a backward pass."""
    if not getattr(patcher, "is_dynamic", bool)():
        return patcher
    try:
        return patcher.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise RegionStyleError(
            f"model: got one that ComfyUI streams from memory (dynamic VRAM) and cannot load a second time ({error}), "
            "expected one that can be loaded whole, because this node needs gradients. Load it with one of ComfyUI's "
            "own loader nodes, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def ordinary(value: Any) -> Any:
    """Tensors (also inside lists, tuples and dicts) as autograd accepts them: inference tensors are copied.

    Call it where inference mode is off.
    """
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: ordinary(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(ordinary(entry) for entry in value)
    return value


@contextmanager
def ordinary_weights(module: nn.Module) -> Iterator[None]:
    """Replace inference tensors among parameters and buffers by frozen ordinary ones over the same memory."""
    replaced: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    try:
        for submodule in module.modules():
            tables: tuple[dict[str, Any], ...] = (submodule._parameters, submodule._buffers)
            for table in tables:
                for name, tensor in table.items():
                    if tensor is not None and tensor.is_inference():
                        replaced.append((table, name, tensor, _alias(tensor)))
                        table[name] = replaced[-1][-1]
        yield
    finally:
        for table, name, before, alias in replaced:
            # Loading anew inside the block may have moved the weight: then what is there now is right.
            if table.get(name) is alias and alias.data_ptr() == before.data_ptr():
                table[name] = before


def _alias(tensor: Tensor) -> Tensor:
    """An ordinary tensor, frozen, over the memory of an inference tensor."""
    if type(tensor) not in (Tensor, nn.Parameter):
        kind = type(tensor).__name__
        raise wrong_input("model", f"weights of type {kind}", "plain weights", "Gradients need an unquantised model.")
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alias = empty.set_(tensor.data.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


def networks_of(patcher: Any) -> list[nn.Module]:
    """The networks that loading a patcher loads with it."""
    return [patcher.model, *(extra.model for extra in patcher.get_nested_additional_models())]


@contextmanager
def as_current(patcher: Any) -> Iterator[None]:
    """ComfyUI asks a model for its patcher during a forward pass."""
    if not hasattr(patcher.model, "current_patcher"):
        yield
        return
    before, patcher.model.current_patcher = patcher.model.current_patcher, patcher
    try:
        yield
    finally:
        patcher.model.current_patcher = before


_mutation_allowed: ContextVar[bool] = ContextVar("regionstyle_mutation_allowed", default=False)


@contextmanager
def mutation_allowed() -> Iterator[None]:
    """torch's `allow_mutation_on_saved_tensors`, which cannot be nested: the outermost block does it."""
    if _mutation_allowed.get():
        yield
        return
    token = _mutation_allowed.set(True)
    try:
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            yield
    finally:
        _mutation_allowed.reset(token)


@contextmanager
def training_flag(management: Any) -> Iterator[None]:
    """`in_training`, which exists since 0.14."""
    if not hasattr(management, "in_training"):
        yield
        return
    before, management.in_training = management.in_training, True
    try:
        yield
    finally:
        management.in_training = before
