"""What a node's sockets accept: ComfyUI's tensors by shape and numbers, models by what they can do, ours by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input
from .checks import quoted

_CLASSES = "_regionstyle_classes"
# What our code asks of the objects; other packs have classes of their own for them.
_ABILITIES = {
    "MODEL": ("model", "model_options", "clone"),
    "CLIP": ("tokenize", "encode_from_tokens_scheduled"),
    "VAE": ("encode", "decode"),
}


def custom_socket(name: str, *classes: type) -> Any:
    """A socket type by its name, `io.Custom(name)`, whose values are objects of these classes: the door checks it."""
    from comfy_api.latest import io

    socket = io.Custom(name)
    setattr(socket, _CLASSES, classes)
    return socket


def check_socket(one: Any, value: Any) -> None:
    """RegionStyleError where what is connected to an io input is nothing that its type holds."""
    io_type = str(one.get_io_type())
    if io_type in _TENSORS:
        _TENSORS[io_type](value, one.id)
    elif io_type in _ABILITIES:
        if isinstance(value, type) or not all(hasattr(value, name) for name in _ABILITIES[io_type]):
            raise _wrong(one.id, value, io_type)
    elif not isinstance(value, getattr(one.Parent, _CLASSES, object)):
        raise _wrong(one.id, value, io_type)


def named(io_type: str) -> str:
    """A type with its article: a MASK, an IMAGE."""
    return f"{'an' if io_type[:1] in 'AEIOU' else 'a'} {io_type}"


def check_image(value: Any, name: str) -> None:
    """An IMAGE `[B,H,W,3]`, or with alpha `[B,H,W,4]`, of floats that are numbers; B, H and W of 1 or more."""
    accepts = "an IMAGE [B,H,W,3]"
    if not isinstance(value, Tensor):
        raise wrong_input(name, quoted(value), accepts, "Connect an image output.")
    if value.ndim != 4 or value.shape[-1] not in (3, 4) or not value.numel():
        raise wrong_input(name, f"shape {list(value.shape)}", accepts, "Connect an image output.")
    if not value.is_floating_point():
        raise wrong_input(name, f"values of {value.dtype}", f"{accepts} of floats in 0..1", "Connect an image output.")
    _check_finite(value, name)


def check_mask(value: Any, name: str) -> None:
    """A MASK `[H,W]` or `[B,H,W]` (or `[B,H,W,1]`, as some packs make it) of real numbers; none of its sizes is 0."""
    accepts = "a MASK [B,H,W]"
    if not isinstance(value, Tensor):
        raise wrong_input(name, quoted(value), accepts, "Connect a mask output.")
    if not (value.ndim in (2, 3) or (value.ndim == 4 and value.shape[-1] == 1)) or not value.numel():
        raise wrong_input(name, f"shape {list(value.shape)}", accepts, "Connect a mask output.")
    if value.is_complex():
        raise wrong_input(name, f"values of {value.dtype}", f"{accepts} of numbers in 0..1", "Connect a mask output.")
    _check_finite(value, name)


def check_latent(value: Any, name: str) -> None:
    """A LATENT: a dictionary whose "samples" are a tensor `[B,C,...]` of floats that are numbers, of no size 0."""
    samples = value.get("samples") if isinstance(value, dict) else None
    if not (isinstance(samples, Tensor) and samples.ndim >= 3 and samples.numel() and samples.is_floating_point()):
        raise _wrong(name, value, "LATENT")
    _check_finite(samples, name)


def check_conditioning(value: Any, name: str) -> None:
    """A CONDITIONING: a list of pairs of an encoded text and a dictionary; an empty list says nothing."""
    if not (isinstance(value, list) and value and all(_is_encoded(one) for one in value)):
        raise _wrong(name, value, "CONDITIONING")


def _is_encoded(one: Any) -> bool:
    return isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], Tensor) and isinstance(one[1], dict)


def _check_finite(value: Tensor, name: str) -> None:
    low, high = torch.aminmax(value)  # a NaN anywhere is both
    if not (bool(low.isfinite()) and bool(high.isfinite())):
        remedy = "Repair what makes it; a model in half precision may need --fp32-vae."
        raise wrong_input(name, "values that are no numbers (NaN or infinite)", "numbers from 0 to 1", remedy)


def _wrong(name: str, value: Any, io_type: str) -> Exception:
    return wrong_input(name, quoted(value), named(io_type), f"Connect an output of type {io_type}.")


_TENSORS: dict[str, Callable[[Any, str], None]] = {
    "IMAGE": check_image, "MASK": check_mask, "LATENT": check_latent, "CONDITIONING": check_conditioning,
}  # fmt: skip
