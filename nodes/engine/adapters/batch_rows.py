"""Gates along the batch: in which rows an expert acts, and its entries fitted to the batch that runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import wrong_input
from ..host.context import pass_context


@dataclass(frozen=True)
class ActiveRows:
    """Rows `first` to `last` (exclusive) of a batch, and the gate they share.

    value: None where their gates differ, or have one value per position.
    """

    first: int
    last: int
    value: float | None


def active_rows(gate: Tensor) -> ActiveRows:
    """The smallest span of rows that holds every value other than 0 of a gate `[B]`; 0 to 0 where there is none."""
    values = gate.tolist()
    rows = [row for row, value in enumerate(values) if value]
    first, last = (rows[0], rows[-1] + 1) if rows else (0, 0)
    return ActiveRows(first, last, values[first] if len(set(values[first:last])) == 1 else None)


def fit_batch(value: Tensor, batch: int, name: str) -> Tensor:
    """The entries `[B or 1,...]` of a gate repeated over a batch that holds the images once or several times.

    Where a slice of the batch runs, its rows. name: the expert's, for the error. RegionStyleError where the batch is
    no multiple of the entries.
    """
    running = pass_context().batch_slice
    if running is not None and len(value) > 1:
        value = _repeated(value, running.total, name)[running.rows]
    return _repeated(value, batch, name)


def _repeated(value: Tensor, batch: int, name: str) -> Tensor:
    if batch % len(value):
        accepts = f"1 or the number of images (the batch has {batch} entries)"
        raise wrong_input(f"gate of {name!r}", f"{len(value)} entries", accepts, "Give one mask, or one per image.")
    return value.repeat(batch // len(value), *[1] * (value.ndim - 1))
