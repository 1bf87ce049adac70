"""The one use case: pictures, the regions to change and a painter, to the edited pictures.

The command line, the Python API, Restyle by Sentence, the demo, the report and the benchmark call `edit`; they differ
in how regions are found and in whose model paints. Painters: `painters/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..engine.adapters.acting import joined_reasons
from ..engine.errors import wrong_input
from ..engine.language.region_prompt import TEMPLATE, region_prompt
from ..engine.region.unchanged import why_unchanged
from ..engine.settings.checks import checked_value
from ..engine.settings.setting import settings_of
from ..router.restyle import RestyleSettings

if TYPE_CHECKING:
    from ..engine.region.region import Region

AUTO = ("detail", "auto")


@dataclass(frozen=True)
class EditSettings:
    """What the user chose; None is what the style and the model usually want.

    strength to detail: see `RestyleSettings`. template: the prompt of a region, with {phrase} and {style};
    prompt: what every region shall show in so many words, instead of the template; negative: what it shall not show,
    which acts where cfg is not 1.
    """

    strength: float | None = None
    steps: int | None = None
    cfg: float | None = None
    seed: int | None = None
    margin: float | None = None
    feather: int | None = None
    largest_scale: float | None = None
    detail: str | None = None
    template: str = TEMPLATE
    prompt: str = ""
    negative: str = ""

    def __post_init__(self) -> None:
        """RegionStyleError for a value that `RestyleSettings` does not accept, and for a strength of 0."""
        declared = settings_of(RestyleSettings)
        for name, value in self.chosen().items():
            checked_value(replace(declared[name], name=f"--{declared[name].name}"), value)
        if self.strength == 0:
            raise wrong_input("--strength", 0, "more than 0, at most 1", "0 would leave the picture as it is.")

    def chosen(self) -> dict[str, Any]:
        """The values of `RestyleSettings` that were chosen; detail "auto" leaves it to the style and the region."""
        given = {field.name: getattr(self, field.name, None) for field in fields(RestyleSettings)}
        return {name: value for name, value in given.items() if value is not None and (name, value) != AUTO}

    def prompt_of(self, region: Region) -> str:
        """What a region is told to show. RegionStyleError for a template without a place for the style."""
        return self.prompt or region_prompt([region.phrase], region.style, self.template)


@dataclass(frozen=True, eq=False)
class EditResult:
    """image `[B,3,H,W]` in 0..1; mask `[B,H,W]`, the composited one: where it is 0 the image equals the input bit for
    bit; regions: what was asked for, in order; those that were not found have an empty mask; idle: the experts that
    were to act -> why they did not, "" for those that did; notes: what else the user should know of the result;
    said: how it was made, for whoever wants to know; stopped: whether the user has cancelled, so that this is the best
    so far and what comes after it is left out."""

    image: Tensor
    mask: Tensor
    regions: tuple[Region, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    said: str = ""
    stopped: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was painted at all."""
        return bool((self.mask > 0).any())

    def differs(self, images: Tensor) -> bool:
        """Whether any value is another than in the images `[B,3,H,W]` that it was made of."""
        return not torch.equal(self.image, images.to(self.image))

    def warning(self, images: Tensor) -> str:
        """What was not changed in the images `[B,3,H,W]` it was made of, and why, and the notes; "" for nothing."""
        masks = torch.zeros(len(images), *images.shape[-2:])
        for region in self.regions:
            masks[region.image] = torch.maximum(masks[region.image], region.mask.float().cpu())
        return "\n".join(filter(None, [why_unchanged(images, self.image, masks, self.idle), *self.notes]))


class Painter(Protocol):
    """Changes one region of a picture. What needs a loaded model is used inside its `loaded()`."""

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for what this painter cannot do, before the first region is painted."""

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """A picture `[1,3,H,W]` with one region painted, whose mask is not empty."""


@runtime_checkable
class JointPainter(Protocol):
    """A painter that can paint several regions of one picture in one pass."""

    def together(
        self, size: tuple[int, int], regions: Sequence[Region], settings: EditSettings
    ) -> list[Sequence[Region]]:
        """The regions of a picture of size `(H, W)` in their order, those of one pass together."""

    def paint_together(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> EditResult:
        """A picture `[1,3,H,W]` with two or more regions of one pass painted; the later ones lie on top."""


def edit(
    images: Tensor, regions: Iterable[Region], painter: Painter, settings: EditSettings | None = None
) -> EditResult:
    """Paint the regions of images `[B,3,H,W]` in 0..1, picture by picture in their order.

    Each region is cut out of the result so far (LEAST, section A1 step 6: the composite is the next content image), by
    its own mask. Regions with an empty mask are left out. RegionStyleError before anything is painted when the painter
    cannot paint one of them.
    """
    settings, asked = settings or EditSettings(), tuple(regions)
    for region in asked:
        painter.check(region, settings)
    there = [region for region in asked if bool((region.mask > 0).any())]
    edited: list[EditResult] = []
    stopped = False
    for index, image in enumerate(images):
        own = [region for region in there if region.image == index and not stopped]
        edited.append(_in_turn(image[None], own, painter, settings))
        stopped = stopped or edited[-1].stopped
    pictures, masks = (torch.cat([getattr(one, name) for one in edited]) for name in ("image", "mask"))
    notes = [note for one in edited for note in one.notes]
    if stopped:
        notes.append(_left_out(there, [region for one in edited for region in one.regions]))
    said = tuple(dict.fromkeys(filter(None, notes)))
    return EditResult(pictures, masks, asked, joined_reasons(one.idle for one in edited), said, stopped=stopped)


def _left_out(there: Sequence[Region], painted: Sequence[Region]) -> str:
    """What a cancel has left as it was, "" for nothing."""
    phrases = dict.fromkeys(region.phrase for region in there if region not in painted)
    return f"not restyled, since it was stopped: {', '.join(phrases)}" if phrases else ""


def _in_turn(image: Tensor, regions: Sequence[Region], painter: Painter, settings: EditSettings) -> EditResult:
    """One picture `[1,3,H,W]`, the mask `[1,H,W]` of all that was blended in, and the regions that were painted."""
    mask, idle = torch.zeros(1, *image.shape[-2:]), []
    notes: list[str] = []
    done: list[Region] = []
    stopped = False
    for group in _groups(image, regions, painter, settings):
        painted = _painted(image, group, painter, settings)
        image, mask = painted.image, torch.maximum(mask, painted.mask.float().cpu())
        idle.append(painted.idle)
        notes += painted.notes
        stopped = painted.stopped
        done += group if painted.changed or not stopped else ()
        if stopped:
            break
    return EditResult(image, mask, tuple(done), joined_reasons(idle), tuple(notes), stopped=stopped)


def _groups(
    image: Tensor, regions: Sequence[Region], painter: Painter, settings: EditSettings
) -> Sequence[Sequence[Region]]:
    """The regions that are painted in one pass, pass by pass."""
    if not isinstance(painter, JointPainter):
        return [[region] for region in regions]
    return painter.together((int(image.shape[-2]), int(image.shape[-1])), regions, settings)


def _painted(image: Tensor, group: Sequence[Region], painter: Painter, settings: EditSettings) -> EditResult:
    if len(group) > 1 and isinstance(painter, JointPainter):
        return painter.paint_together(image, group, settings)
    return painter.paint(image, group[0], settings)
