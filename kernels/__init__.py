"""Tensor operations shared by every slice: torch in, torch out, differentiable.

Nothing here knows about networks, images or files. torch is imported on first use, so that importing this
package costs nothing. Files are named with nouns and functions with the public names below: a file named like
its function would replace the function on this package as soon as somebody imported the file.

To add an operation: one file with the plain definition (`*_reference`, written to be read) and the public function,
which checks its arguments and picks a fused version where there is one (`lora.py` is a short example); its name in
`_HOME` below and in the import above it. Model families and adapter formats have no part here: they are added in
`nodes/engine/families/` and `nodes/engine/lora/keys.py`, which say how.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import token_attention
    from .dct import dct2, idct2, low_pass, spectrum_distance
    from .filters import adaptive_filter
    from .logodds import token_logodds
    from .lora import routed_lora
    from .modulation import modulate
    from .patches import sample_patches
    from .poisson import poisson_blend
    from .pool import masked_pool

_HOME = {
    "token_attention": "attention",
    "token_logodds": "logodds",
    "routed_lora": "lora",
    "dct2": "dct",
    "idct2": "dct",
    "low_pass": "dct",
    "spectrum_distance": "dct",
    "masked_pool": "pool",
    "modulate": "modulation",
    "adaptive_filter": "filters",
    "poisson_blend": "poisson",
    "sample_patches": "patches",
}

__all__ = [
    "token_attention",
    "token_logodds",
    "routed_lora",
    "dct2",
    "idct2",
    "low_pass",
    "spectrum_distance",
    "masked_pool",
    "modulate",
    "adaptive_filter",
    "poisson_blend",
    "sample_patches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = function  # asked once: this function takes as long as a small kernel
    return function


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
