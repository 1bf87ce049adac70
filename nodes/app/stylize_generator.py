"""Which regions of a picture a generator paints instead of an expert, and painting them at full size.

The tiny world's model works at 128 pixels: what it redraws in a photograph is that small and enlarged. A generator that
was distilled from it has no size, so it paints photographs where one ships for the style.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.errors import wrong_input
from ..tinyworld.world import SIZE

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine.region.region import Region
    from ..sms.generator.files import StyleGenerator

OFF = "off"
FEATHER = 2  # pixels, the seam of the expert's regions


@dataclass(frozen=True, eq=False)
class Painted:
    """image `[1,3,H,W]`; mask `[H,W]`, the composited one: where it is 0 the image equals the input bit for bit."""

    image: Tensor
    mask: Tensor


def check_generator(args: argparse.Namespace) -> None:
    """RegionStyleError for options that a generator cannot follow."""
    given = [f"--{name}" for name in ("strength", "steps") if getattr(args, name) is not None]
    if args.generator not in (None, OFF) and given:
        accepts = "--generator without them: it paints in one pass, always as far as it was trained to"
        raise wrong_input("--generator", f"it with {' and '.join(given)}", accepts, "Leave out one or the other.")


def generator_for(args: argparse.Namespace, image: Tensor, style: str, *, tiny: bool) -> StyleGenerator | None:
    """The generator that paints a style in a picture `[1,3,H,W]`; None where the model's expert is to redraw it.

    Without --generator: one that ships for the style, when the model is the tiny world, the picture is larger than
    that world, and no --strength or --steps asks for redrawing.
    """
    from ..sms.generator.files import bundled_generators, load_generator
    from .cli.apply import find_generator

    if args.generator == OFF:
        return None
    if args.generator is not None:
        return find_generator(args.generator)
    redrawn = args.strength is not None or args.steps is not None
    path = bundled_generators().get(style)
    if not tiny or redrawn or path is None or min(image.shape[-2:]) <= SIZE:
        return None
    return load_generator(path)


def paint(generator: StyleGenerator, image: Tensor, region: Region, host: Any) -> Painted:
    """A region of a picture `[1,3,H,W]` by a generator, at the picture's own size."""
    from ..sms.generator.apply import apply_generator

    made, blended = apply_generator(generator, image, host, mask=region.mask[None], feather=FEATHER)
    return Painted(made, blended[0])
