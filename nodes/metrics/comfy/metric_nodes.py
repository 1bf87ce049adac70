"""ComfyUI nodes that measure and compare results."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.errors import wrong_input
from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.sockets import custom_socket
from ..networks.networks import MetricNetworks
from ..settings import RegionalStyleSettings

METRIC_NETWORKS = custom_socket("REGIONSTYLE_METRIC_NETWORKS", MetricNetworks)
SLOTS = 6


class Score(Node):
    """How well a region was restyled, and how much else changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleScore",
            display_name="Score Result",
            category="RegionStyle/measure",
            description="Compares a result with its source: style match inside the mask (RSM), what changed outside "
            "(LPIPS and MSE of the background), and whole-picture numbers. Every number names its network and pixel "
            "range.",
            is_output_node=True,  # shows its result, so it may end a graph
            search_aliases=["metrics", "evaluate", "LPIPS", "CLIP score", "PSNR", "SSIM"],
            inputs=[*_score_inputs(), *_score_options()],
            outputs=[
                node_output(io.Float, "rsm", tooltip="Style match in the region, 0..1, higher is better; mean."),
                node_output(io.Float, "lpips_bg", tooltip="Perceptual change outside, lower is better; mean."),
                node_output(io.Float, "mse_bg", tooltip="Pixel change outside, lower is better; 0: untouched; mean."),
                node_output(io.Image, "table", tooltip="All numbers as a picture."),
                node_output(
                    io.String, "report", tooltip="All numbers as JSON: means, by foreground ratio, by picture."
                ),
            ],
        )

    @classmethod
    def execute(cls, networks: Any, before: Any, after: Any, mask: Any, style: str, **settings: Any) -> io.NodeOutput:
        from .metrics import score_in_comfy

        (chosen,) = settings_from(settings, RegionalStyleSettings)
        score, table, report = score_in_comfy(networks, before, after, mask, style, chosen)
        values = [score.value(name) for name in ("RSM", "LPIPS_bg", "MSE_bg")]
        return io.NodeOutput(*values, table, report, ui=ui.PreviewImage(table, cls=cls))


def _score_inputs() -> list[Any]:
    return [
        node_input(METRIC_NETWORKS, "networks", tooltip="The networks that measure: Load Metric Networks."),
        node_input(io.Image, "before", tooltip="The source. One picture, or one per result."),
        node_input(io.Image, "after", tooltip="The result, at the source's size; any batch."),
        node_input(io.Mask, "mask", tooltip="1 = the region that was to change. One, or one per picture."),
        node_input(
            io.String,
            "style",
            default="mosaic",
            multiline=True,
            tooltip="The style that was asked for, as words; one for all, or one line per picture.",
        ),
    ]


def _score_options() -> list[Any]:
    return node_inputs(RegionalStyleSettings, "margin", "background", "pixel_range", "soft", "sentence")


class Compare(Node):
    """Several results side by side, each under its label."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleCompare",
            display_name="Compare Side by Side",
            category="RegionStyle/measure",
            description="Puts up to six pictures (or batches) beside each other in a labelled grid.",
            is_output_node=True,  # shows its result, so it may end a graph
            search_aliases=["grid", "contact sheet", "XY plot", "side by side"],
            inputs=[
                node_input(io.Image, "image_1", tooltip="The first column."),
                *[
                    node_input(io.Image, f"image_{i}", optional=True, tooltip=f"Column {i}; may stay empty.")
                    for i in range(2, SLOTS + 1)
                ],
                node_input(
                    io.String,
                    "labels",
                    default="before\nafter",
                    multiline=True,
                    tooltip="One line per connected picture, in their order.",
                ),
                node_input(io.String, "title", default="", tooltip="A line above the grid."),
                node_input(
                    io.Int,
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures per row. 0: as many as are connected, so every picture of a batch has a row.",
                ),
                node_input(io.Int, "side", default=320, min=16, max=2048, tooltip="Longer side of each, in pixels."),
            ],
            outputs=[node_output(io.Image, "grid", tooltip="The grid; one picture.")],
        )

    @classmethod
    def execute(cls, image_1: Any, labels: str, title: str, columns: int, side: int, **images: Any) -> io.NodeOutput:
        from .metrics import compare_in_comfy

        others = [images[f"image_{i}"] for i in range(2, SLOTS + 1)]
        connected = [image_1, *(image for image in others if image is not None)]
        grid = compare_in_comfy(connected, labels, title, columns, side)
        return io.NodeOutput(grid, ui=ui.PreviewImage(grid, cls=cls))


class MaskIoU(Node):
    """How well two masks agree."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleMaskIoU",
            display_name="Mask IoU",
            category="RegionStyle/measure",
            description="Intersection over union of two masks: 1 when they are equal (or both empty), 0 when disjoint.",
            is_output_node=True,  # shows its result, so it may end a graph
            search_aliases=["jaccard", "mask overlap", "intersection over union"],
            inputs=[
                node_input(io.Mask, "found", tooltip="The mask to judge; one or a batch."),
                node_input(io.Mask, "truth", tooltip="The mask it should be; one, or one per mask. Resized if needed."),
                node_input(
                    io.Float,
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Values above it count as inside, 0 to 0.95.",
                ),
            ],
            outputs=[
                node_output(io.Float, "iou", tooltip="Mean over the masks, 0..1."),
                node_output(io.String, "each", tooltip="One line per mask."),
            ],
        )

    @classmethod
    def execute(cls, found: Any, truth: Any, threshold: float) -> io.NodeOutput:
        from .metrics import iou_in_comfy

        value, lines = iou_in_comfy(found, truth, threshold)
        return io.NodeOutput(value, lines, ui=cls.say(lines))


class SaveReport(Node):
    """Numbers and pictures of a run as files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSaveReport",
            display_name="Save Report",
            category="RegionStyle/measure",
            description="Writes a JSON report, and an HTML page with its tables and pictures inside, to ComfyUI's "
            "output folder. Nothing is overwritten.",
            search_aliases=["export metrics", "save json", "html report"],
            is_output_node=True,
            inputs=[
                node_input(
                    io.String, "report", force_input=True, tooltip="JSON text: the report of Score Result, or your own."
                ),
                node_input(
                    io.String,
                    "filename_prefix",
                    default="RegionStyle/report",
                    tooltip="Folder and name, as Save Image.",
                ),
                node_input(io.Image, "images", optional=True, tooltip="Pictures for the page, such as a grid."),
            ],
            outputs=[node_output(io.String, "path", tooltip="Where the HTML page lies.")],
        )

    @classmethod
    def execute(cls, report: str, filename_prefix: str, images: Any) -> io.NodeOutput:
        from .metrics import save_report

        if not filename_prefix.strip():
            raise wrong_input("filename_prefix", "nothing", "a name", "Give a name such as RegionStyle/report.")
        places = save_report(report, filename_prefix, images)
        return io.NodeOutput(str(places[1]), ui=cls.say("\n".join(map(str, places))))


NODES = [Score, Compare, MaskIoU, SaveReport]
