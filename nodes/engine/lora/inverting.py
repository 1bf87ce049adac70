"""Which experts start best from a picture's own noise where they work in tiles.

A slice that ships such experts says so here; nodes that know experts as files only ask for it. Other experts start
from drawn noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .expert import Expert

# An expert -> how much of the noise it starts from in tiles is the picture's own, 0..1; None: not one of this slice's.
Teller = Callable[[Expert], float | None]
_TELLERS: dict[str, Teller] = {}


def tell_inverting(slice_name: str, teller: Teller) -> None:
    """Have a slice's teller asked from now on; once per slice, the last one counts."""
    _TELLERS[slice_name] = teller


def share_inverted(experts: Iterable[Expert]) -> float:
    """How much of the noise is the picture's own where these experts work in tiles together: the least that any of
    them wants; 0 for none, and for one that nobody speaks for."""
    return min((_of(expert) for expert in experts), default=0.0)


def _of(expert: Expert) -> float:
    told = (teller(expert) for teller in _TELLERS.values())
    return next((share for share in told if share is not None), 0.0)
