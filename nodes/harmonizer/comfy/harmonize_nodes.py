"""ComfyUI nodes that fit a foreground to its background."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override, settings_of
from ...engine.settings.sockets import custom_socket
from ..base import COMFY_TYPE, Harmonizer
from ..settings import BlendSettings, MatchSettings, PlaceSettings, RandomPoissonSettings, SeamSettings

CATEGORY = "RegionStyle/harmonize"
HARMONIZER = custom_socket(COMFY_TYPE, Harmonizer)


def _reference_inputs() -> list[Any]:
    return [
        node_input(
            io.Image,
            "reference",
            optional=True,
            tooltip="A picture whose light and colours the foreground is to have, instead of its surroundings.",
        ),
        node_input(io.Mask, "reference_mask", optional=True, tooltip="The part of the reference; without: all of it."),
    ]


class HarmonizeComposite(Node):
    """Give a pasted foreground the light and colours of its background."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        known = settings_of(PlaceSettings)
        place = {name: override(help=f"{one.help} A connected composite is not moved.") for name, one in known.items()}
        return node_schema(
            node_id="RegionStyleHarmonizeComposite",
            display_name="Harmonize Composite",
            category=CATEGORY,
            description="Gives a pasted foreground the light and colours of its background; texture stays. Takes a "
            "composite, or lays a foreground into a background first. Works at any size without a download. Where the "
            "mask is 0 the picture equals the input bit for bit.",
            search_aliases=["harmonize", "image harmonization", "relight paste", "match colours", "composite", "R2R"],
            inputs=[
                node_input(io.Mask, "mask", tooltip="1 = the foreground: of the composite, or of the foreground."),
                *node_inputs(SeamSettings, "seam", "seed"),
                *node_inputs(PlaceSettings, **place),
                node_input(io.Image, "composite", optional=True, tooltip="A picture with the foreground pasted in."),
                node_input(io.Image, "foreground", optional=True, tooltip="What is pasted, instead of a composite."),
                node_input(io.Image, "background", optional=True, tooltip="Where the foreground is laid into."),
                node_input(
                    HARMONIZER,
                    "harmonizer",
                    optional=True,
                    tooltip="Load R2R, for the large networks; not connected: the small one that comes with the pack.",
                ),
                *_reference_inputs(),
            ],
            outputs=[
                node_output(io.Image, "image", tooltip="The harmonised pictures, of the composite's size."),
                node_output(io.Mask, "harmonized_mask", display_name="mask", tooltip="The foreground in them."),
            ],
        )

    @classmethod
    def execute(
        cls,
        mask: Any,
        composite: Any,
        foreground: Any,
        background: Any,
        harmonizer: Any,
        reference: Any,
        reference_mask: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        from .harmonize import composite_of, harmonize_in_comfy

        seam, place = settings_from(settings, SeamSettings, PlaceSettings)
        images, region = composite_of(composite, foreground, background, mask, place)
        made = harmonize_in_comfy(harmonizer, images, region, reference, reference_mask, seam)
        return io.NodeOutput(made.image, made.mask, ui=cls.say(warning=made.warning))


class PoissonBlend(Node):
    """Gradient-domain pasting."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStylePoissonBlend",
            display_name="Poisson Blend",
            category=CATEGORY,
            description="Pastes a foreground without a seam: its differences are kept, its border takes the "
            "background's values (seamless cloning). Outside the mask the background stays bit for bit.",
            search_aliases=["seamless clone", "gradient domain", "poisson editing"],
            inputs=[
                node_input(io.Image, "foreground", tooltip="What is pasted."),
                node_input(io.Image, "background", tooltip="Where it is pasted into."),
                node_input(io.Mask, "mask", tooltip="The foreground's part that is pasted: above 0.5."),
                *node_inputs(BlendSettings, "mode"),
                *node_inputs(PlaceSettings, "x", "y", "scale"),
            ],
            outputs=[
                node_output(io.Image, "image", tooltip="The background with the foreground in it."),
                node_output(io.Mask, "blended_mask", display_name="mask", tooltip="Where the foreground lies."),
            ],
        )

    @classmethod
    def execute(cls, foreground: Any, background: Any, mask: Any, **settings: Any) -> io.NodeOutput:
        from .harmonize import poisson_in_comfy

        blend, place = settings_from(settings, BlendSettings, PlaceSettings)
        made = poisson_in_comfy(foreground, background, mask, place, blend)
        return io.NodeOutput(made.image, made.mask, ui=cls.say(warning=made.warning))


class MatchColourStatistics(Node):
    """Classical colour transfer between two regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleMatchColourStatistics",
            display_name="Match Colour Statistics",
            category=CATEGORY,
            description="Gives the masked part the colour statistics of the rest of its picture, or of a reference. "
            "Soft masks count softly. Where the mask is 0 the picture equals the input bit for bit.",
            search_aliases=["color transfer", "reinhard", "histogram matching", "color match", "MKL"],
            inputs=[
                node_input(io.Image, "image", tooltip="The pictures."),
                node_input(io.Mask, "mask", tooltip="1 = the part that changes."),
                *node_inputs(MatchSettings, "method", "strength"),
                *_reference_inputs(),
            ],
            outputs=[node_output(io.Image, "matched_image", display_name="image", tooltip="The changed pictures.")],
        )

    @classmethod
    def execute(cls, image: Any, mask: Any, reference: Any, reference_mask: Any, **settings: Any) -> io.NodeOutput:
        from .harmonize import match_in_comfy

        (chosen,) = settings_from(settings, MatchSettings)
        made = match_in_comfy(image, mask, reference, reference_mask, chosen)
        return io.NodeOutput(made.image, ui=cls.say(warning=made.warning))


class RandomPoissonBlend(Node):
    """Training pairs for harmonisation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        variants = override(help="How many composites of each picture, each with another donor or place.")
        return node_schema(
            node_id="RegionStyleRandomPoissonBlend",
            display_name="Random Poisson Blend",
            category=CATEGORY,
            description="Makes composites with a known truth for training a harmoniser (R2R): the foreground of a real "
            "picture takes the light of a random place in another one. Outside the mask nothing changes.",
            search_aliases=["harmonization dataset", "RPHarmony", "training pairs", "augment"],
            inputs=[
                node_input(io.Image, "image", tooltip="Real pictures: the truth."),
                node_input(io.Mask, "mask", tooltip="Their foreground: above 0.5. One, or one for each."),
                node_input(
                    io.Image,
                    "donors",
                    optional=True,
                    tooltip="Pictures whose light is taken. Not connected: the batch's other pictures, or of a single "
                    "picture another place.",
                ),
                *node_inputs(RandomPoissonSettings, "strength", variants=variants),
                *node_inputs(RandomPoissonSettings, "seed"),
            ],
            outputs=[
                node_output(io.Image, "composite", tooltip="The composites."),
                node_output(io.Mask, "foreground", tooltip="The foreground of each."),
                node_output(io.Image, "truth", tooltip="The real picture of each."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, mask: Any, donors: Any, **settings: Any) -> io.NodeOutput:
        from .harmonize import random_poisson_in_comfy

        (chosen,) = settings_from(settings, RandomPoissonSettings)
        composites, masks, truths = random_poisson_in_comfy(image, mask, donors, chosen)
        return io.NodeOutput(composites, masks, truths, ui=cls.say(f"{len(composites)} composites"))


NODES = [HarmonizeComposite, MatchColourStatistics, PoissonBlend, RandomPoissonBlend]
