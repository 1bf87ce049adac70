"""ComfyUI nodes that refine and combine masks and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_choice, check_range, node_input, node_output, node_schema
from .region_nodes import CATEGORY, REGIONS, regions_input

if TYPE_CHECKING:
    from ..masks.refine import RefineSettings


def _refine_inputs() -> list[Any]:
    return [
        node_input(
            io.Image,
            "image",
            optional=True,
            tooltip="The picture the edges follow; needed when edges is above 0, and only then used.",
        ),
        node_input(
            io.Float,
            "threshold",
            default=0.0,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="0 keeps the mask soft. Above: what is over this value becomes 1, the rest 0.",
        ),
        node_input(io.Boolean, "largest_part", default=False, tooltip="On: only the largest connected part stays."),
        node_input(io.Boolean, "fill_holes", default=False, tooltip="On: what the mask walls in becomes part of it."),
        node_input(
            io.Int, "grow", default=0, min=-512, max=512, tooltip="Pixels: positive grows all around, negative shrinks."
        ),
        node_input(
            io.Int,
            "edges",
            default=0,
            min=0,
            max=256,
            tooltip="Moves the outline to the picture's edges within about this many pixels (guided filter); 0 is off.",
        ),
        node_input(
            io.Int,
            "feather",
            default=0,
            min=-256,
            max=256,
            tooltip="Soft seam in pixels: positive outwards, negative inwards; exactly 0 beyond it.",
        ),
    ]


def _settings(
    threshold: float, largest_part: bool, fill_holes: bool, grow: int, edges: int, feather: int
) -> RefineSettings:
    from ..masks.refine import RefineSettings

    check_range(threshold, 0, 0.99, "threshold")
    check_range(grow, -512, 512, "grow")
    check_range(edges, 0, 256, "edges")
    check_range(feather, -256, 256, "feather")
    return RefineSettings(threshold, largest_part, fill_holes, int(grow), int(edges), int(feather))


class RefineMask(io.ComfyNode):
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
    def execute(
        cls,
        mask: Any,
        threshold: float = 0.0,
        largest_part: bool = False,
        fill_holes: bool = False,
        grow: int = 0,
        edges: int = 0,
        feather: int = 0,
        image: Any = None,
    ) -> io.NodeOutput:
        from .regions import refine_masks

        settings = _settings(threshold, largest_part, fill_holes, grow, edges, feather)
        return io.NodeOutput(refine_masks(mask, settings, image))


class RefineRegions(io.ComfyNode):
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
    def execute(
        cls,
        regions: Any,
        threshold: float = 0.0,
        largest_part: bool = False,
        fill_holes: bool = False,
        grow: int = 0,
        edges: int = 0,
        feather: int = 0,
        image: Any = None,
    ) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .regions import refine_regions

        settings = _settings(threshold, largest_part, fill_holes, grow, edges, feather)
        made = refine_regions(regions, settings, image)
        return io.NodeOutput(made, ui=ui.PreviewText(not_found_notice(made) or f"{len(made)} regions"))


class CombineMasks(io.ComfyNode):
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
    def execute(cls, a: Any, operation: str = "union", b: Any = None) -> io.NodeOutput:
        from ..masks.composition import OPERATIONS
        from .regions import combined

        return io.NodeOutput(combined(a, b, check_choice(operation, OPERATIONS, "operation")))


class ComposeRegions(io.ComfyNode):
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
    def execute(
        cls, regions: Any, overlaps: str = "later on top", background: str = "", more: Any = None
    ) -> io.NodeOutput:
        from ..masks.composition import PRIORITIES, join, with_background, without_overlaps

        check_choice(overlaps, ["keep", *PRIORITIES], "overlaps")
        made = regions if more is None else join(regions, more)
        made = made if overlaps == "keep" else without_overlaps(made, overlaps)
        return io.NodeOutput(with_background(made, background.strip()) if background.strip() else made)


NODES = [RefineMask, RefineRegions, CombineMasks, ComposeRegions]
