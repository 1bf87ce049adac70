"""ComfyUI nodes that refine and combine masks and regions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.unchanged import empty_masks
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ..settings import RefineSettings
from .region_nodes import CATEGORY, REGIONS, regions_input


def _refine_inputs() -> list[Any]:
    return [
        node_input(
            io.Image,
            "image",
            optional=True,
            tooltip="The picture the edges follow; needed when edges is above 0, and only then used.",
        ),
        *node_inputs(RefineSettings, "threshold", "largest", "fill", "grow", "edges", "feather"),
    ]


class RefineMask(Node):
    """A mask made better."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRefineMask",
            display_name="Refine Mask",
            category=CATEGORY,
            description="Threshold, largest part, fill holes, grow or shrink, picture edges, feather: in this order. "
            "With the defaults the mask comes out as it went in.",
            search_aliases=["grow mask", "feather mask", "mask edges", "fill holes"],
            inputs=[
                node_input(io.Mask, "mask", tooltip="1 is inside; each mask of a batch is refined by itself."),
                *_refine_inputs(),
            ],
            outputs=[node_output(io.Mask, "refined_mask", display_name="mask", tooltip="The refined mask.")],
        )

    @classmethod
    def execute(cls, mask: Any, image: Any, **settings: Any) -> io.NodeOutput:
        from .regions import refine_masks

        (chosen,) = settings_from(settings, RefineSettings)
        made = refine_masks(mask, chosen, image)
        return io.NodeOutput(made, ui=cls.say(warning=empty_masks(made)))


class RefineRegions(Node):
    """Every region's mask made better."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRefineRegions",
            display_name="Refine Regions",
            category=CATEGORY,
            description="Threshold, largest part, fill holes, grow or shrink, picture edges, feather: in this order, "
            "for every region by itself. Words, styles and scores stay.",
            search_aliases=["grow regions", "feather regions"],
            inputs=[regions_input(), *_refine_inputs()],
            outputs=[
                node_output(
                    REGIONS,
                    "refined_regions",
                    display_name="regions",
                    tooltip="The refined regions; one whose mask became empty counts as not found.",
                )
            ],
        )

    @classmethod
    def execute(cls, regions: Any, image: Any, **settings: Any) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .regions import refine_regions

        (chosen,) = settings_from(settings, RefineSettings)
        made = refine_regions(regions, chosen, image)
        return io.NodeOutput(made, ui=cls.say(f"{len(made)} regions", warning=not_found_notice(made)))


class CombineMasks(Node):
    """Set operations on masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..masks.composition import OPERATIONS

        return node_schema(
            node_id="RegionStyleCombineMasks",
            display_name="Mask Set Operations",
            category=CATEGORY,
            description="union: in a or b. intersect: in both. subtract: in a but not in b. complement: in neither. "
            "Soft masks stay soft.",
            search_aliases=["combine masks", "mask union", "mask subtract", "invert mask"],
            inputs=[
                node_input(io.Mask, "a", tooltip="The first mask; the result has its size."),
                node_input(
                    io.Mask,
                    "b",
                    optional=True,
                    tooltip="The second mask, resized to the first; only complement can do without it.",
                ),
                node_input(
                    io.Combo, "operation", options=list(OPERATIONS), default="union", tooltip="What to do with them."
                ),
            ],
            outputs=[node_output(io.Mask, "mask", tooltip="The combined mask, as many as the longer batch has.")],
        )

    @classmethod
    def execute(cls, a: Any, operation: str, b: Any) -> io.NodeOutput:
        from .regions import combined

        made = combined(a, b, operation)
        return io.NodeOutput(made, ui=cls.say(warning=empty_masks(made)))


class ComposeRegions(Node):
    """Regions joined, made free of overlaps, and given a background."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..masks.composition import PRIORITIES

        return node_schema(
            node_id="RegionStyleComposeRegions",
            display_name="Compose Regions",
            category=CATEGORY,
            description="Joins two sets of regions, gives every place to one of them, and adds what is left as the "
            "background.",
            search_aliases=["join regions", "background mask", "overlap"],
            inputs=[
                regions_input(),
                regions_input("more", optional=True, tooltip="Regions of the same pictures that come after the first."),
                node_input(
                    io.Combo,
                    "overlaps",
                    options=["keep", *PRIORITIES],
                    default=PRIORITIES[0],
                    tooltip="Which of two overlapping regions gets the place; 'keep' leaves it to both.",
                ),
                node_input(
                    io.String,
                    "background",
                    default="",
                    tooltip="The style of one more region, 'background': all that no region covers. Empty: none.",
                ),
            ],
            outputs=[node_output(REGIONS, "composed_regions", display_name="regions", tooltip="The composed regions.")],
        )

    @classmethod
    def execute(cls, regions: Any, overlaps: str, background: str, more: Any) -> io.NodeOutput:
        from ...engine.host.comfy import ComfyHost
        from ..masks.composition import join, with_background, without_overlaps

        made = regions if more is None else join(regions, more)
        made = made if overlaps == "keep" else without_overlaps(made, overlaps, ComfyHost())
        return io.NodeOutput(with_background(made, background.strip()) if background.strip() else made)


NODES = [RefineMask, RefineRegions, CombineMasks, ComposeRegions]
