"""Painters by name, for the command line and the Python API.

Adding one: a module in this folder that registers a function from a `PainterContext` to a `Painter`; it is found by
being there, and no other file changes.

    from .registry import PainterContext, painter

    @painter("clip")
    def clip_painter(context: PainterContext) -> Painter: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from torch import Tensor

from ...engine.errors import wrong_input
from ...local_clip.settings import LocalClipSettings
from ..edit import EditSettings, Painter
from ..local_model import LocalModel
from ..sms import SmsChoice


@dataclass(frozen=True)
class PainterContext:
    """model: the user's, with its experts; settings: what the user chose; generator: a file, a bundled one's style, or
    None; clip: a CLIP's folder (None: the tiny one), local_clip: how it is optimised, and start_image `[1,3,H,W]`: what
    is at first where the things are (None: as local_clip says), for the painter "clip"; composite: whether the painter
    "words" keeps what is outside the things; sms: how the painter "sms" optimises."""

    model: LocalModel
    settings: EditSettings
    generator: str | None = None
    clip: Path | None = None
    local_clip: LocalClipSettings | None = None
    composite: bool = False
    start_image: Tensor | None = None
    sms: SmsChoice | None = None


Factory = Callable[[PainterContext], Painter]
PAINTERS: dict[str, Factory] = {}


def painter(name: str) -> Callable[[Factory], Factory]:
    """Register a painter under a name, which must be new."""

    def register(factory: Factory) -> Factory:
        if name in PAINTERS and PAINTERS[name].__module__ != factory.__module__:
            raise ValueError(f"a painter named {name!r} is already registered by {PAINTERS[name].__module__}")
        PAINTERS[name] = factory
        return factory

    return register


def all_painters() -> dict[str, Factory]:
    """Every painter of this folder, by name."""
    package = import_module(__package__)
    for module in sorted(info.name for info in iter_modules(package.__path__)):
        import_module(f".{module}", __package__)
    return PAINTERS


def painter_named(name: str, context: PainterContext) -> Painter:
    """The painter of a name. RegionStyleError listing the names there are for any other."""
    painters = all_painters()
    if name not in painters:
        raise wrong_input("painter", repr(name), ", ".join(sorted(painters)), "Choose one of these.")
    return painters[name](context)
