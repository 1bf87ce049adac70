"""Style expert: the low-rank updates (LoRA) of one style, layer by layer, named by diffusers module paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import RegionStyleError
from .magnitude import Magnitude


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """The update scale * up @ down of one Linear or Conv2d (Hu et al., arXiv:2106.09685).

    down `[R,I]`, or `[R,I,kh,kw]` with the kernel of the convolution; up `[O,R]` or `[O,R,1,1]`; scale = alpha / R.
    rows: the output rows it acts on when the layer computes several projections at once; None: all of them.
    magnitude: of a DoRA layer (`magnitude.py`). RegionStyleError when the shapes do not fit each other.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    rows: slice | None = None
    magnitude: Magnitude | None = None

    def __post_init__(self) -> None:
        flat_up = self.up.ndim == 2 or self.up.shape[2:] == (1, 1)
        if self.down.ndim not in (2, 4) or self.up.ndim not in (2, 4) or not flat_up:
            raise RegionStyleError(_misfit(self.down, self.up))
        if self.down.shape[0] != self.up.shape[1] or self.down.shape[0] == 0:
            raise RegionStyleError(_misfit(self.down, self.up))

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Expert:
    """One style's LoRA.

    name: what gates call it; layers: diffusers module path -> update; style: the words it stands for;
    metadata: text from the file; unused: keys of the file that act on the text encoder and were left out on request.
    """

    name: str
    layers: Mapping[str, LoraLayer]
    style: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise RegionStyleError("expert: its name is empty, expected some text. Gates find experts by name.")
        if not self.layers:
            raise RegionStyleError(f"expert {self.name!r}: got no layers, expected one or more. Check the LoRA file.")


def _misfit(down: Tensor, up: Tensor) -> str:
    return (
        f"LoRA layer: got down {list(down.shape)} and up {list(up.shape)}, expected [R,I] and [O,R], or [R,I,kh,kw] "
        "and [O,R,1,1]. The file is damaged or of another kind (Tucker layers are not supported)."
    )
