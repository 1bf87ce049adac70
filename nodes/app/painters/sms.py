"""The painter "sms": a region is optimised until its style's expert takes it for one of its own (SMS)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ...engine.errors import is_cancel, wrong_input
from ...engine.language.region_prompt import AREA, TEMPLATE, noun_of
from ..edit import EditResult, EditSettings
from ..sms import SmsChoice, usual_sms
from .expert import style_experts
from .registry import PainterContext, painter

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.region.region import Region
    from ...sms.settings import Framing, SmsSettings
    from ...sms.stylize import Matched

FRAMED = ("margin", "feather", "largest_scale", "detail")
FOLLOWED = ("seed", *FRAMED)


@dataclass(frozen=True)
class SmsPainter:
    """predictor: the model with its experts, over diffusers' networks; choice: how it is optimised."""

    predictor: Any
    choice: SmsChoice

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for settings that ask for redrawing, for no style, and for a model without its expert."""
        check_settings(settings)
        if not region.style.strip():
            raise wrong_input("style", repr(region.style), "words for the style", "Type for example 'watercolor'.")
        if not style_experts(self.predictor, region.style):
            accepts = "one with the style's LoRA"
            raise wrong_input("--model", "a model without style experts", accepts, "Give one with --expert.")

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """The region of a picture `[1,3,H,W]` in its style: as far as it came where the user cancels."""
        from ...engine.adapters.acting import watching_experts
        from ...engine.adapters.gates import Gates
        from ...sms.stylize import UNSEEN

        gates = dict.fromkeys(style_experts(self.predictor, region.style), self.choice.strength)
        try:
            with watching_experts() as watch:
                made = self._matched(image, region, gates, settings)
        except BaseException as error:
            if not is_cancel(error):
                raise
            return EditResult(image, torch.zeros_like(image[:, 0]), (region,), stopped=True)
        said = filter(None, (made.stopped, "" if made.seen else UNSEEN, made.note))
        notes = tuple(f"{region.phrase}: {line}" for line in said)
        idle, stopped = watch.idle_reasons(Gates(gates)), bool(made.stopped)
        return EditResult(made.images, made.masks, (region,), idle, notes, stopped=stopped)

    def _matched(self, image: Tensor, region: Region, gates: dict[str, Any], settings: EditSettings) -> Matched:
        from ...sms.fake import with_fake
        from ...sms.stylize import match_style

        own, framing = self._chosen(settings)
        # A region that is all of its picture is worked on in the picture's own shape, as the node does without a mask.
        masks = None if bool((region.mask >= 1).all()) else region.mask[None].to(image)
        caption = settings.prompt or noun_of(region.phrase) or AREA
        with with_fake(self.predictor, own.seed) as (both, fake):
            return match_style(both, image, masks, [caption], region.style, gates, fake, own, framing, keep=True)

    def _chosen(self, settings: EditSettings) -> tuple[SmsSettings, Framing]:
        """The settings with what every method has: seed, detail and the like."""
        chosen, own = settings.chosen(), self.choice.settings
        framed = {name: chosen[name] for name in FRAMED if name in chosen}
        return replace(own, seed=chosen.get("seed", own.seed)), replace(self.choice.framing, **framed)


def check_settings(settings: EditSettings) -> None:
    """RegionStyleError for settings that ask for redrawing, which SMS does not do."""
    given = [f"--{name}" for name in settings.chosen() if name not in FOLLOWED]
    given += ["a negative prompt"] * bool(settings.negative)
    given += ["a template of prompts"] * (settings.template != TEMPLATE)
    if given:
        accepts = "it without them: what sms takes begins with --sms-"
        raise wrong_input("--method", f"sms with {' and '.join(given)}", accepts, "Leave them out.")


@painter("sms")
def sms_painter(context: PainterContext) -> SmsPainter:
    """The model's experts, optimised as the context says, or as suits the model."""
    return SmsPainter(context.model.predictor, context.sms or usual_sms({}, context.model.tiny))
