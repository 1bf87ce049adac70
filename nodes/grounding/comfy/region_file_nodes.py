"""ComfyUI nodes that save, load and show regions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from .region_nodes import CATEGORY, REGIONS, regions_input


class SaveRegions(Node):
    """Regions into a JSON file and PNG masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSaveRegions",
            display_name="Save Regions",
            category=CATEGORY,
            description="Writes the words into a JSON file and every mask as a 16-bit PNG beside it, in ComfyUI's "
            "output folder.",
            search_aliases=["export masks", "save masks"],
            is_output_node=True,
            inputs=[
                regions_input(),
                node_input(
                    io.String,
                    "filename_prefix",
                    default="regions/regions",
                    tooltip="Folder and beginning of the name, inside the output folder; a number is added.",
                ),
            ],
            outputs=[node_output(io.String, "file", tooltip="The file's name, as Load Regions takes it.")],
        )

    @classmethod
    def execute(cls, regions: Any, filename_prefix: str) -> io.NodeOutput:
        from .regions import save_to_output

        file = save_to_output(regions, filename_prefix)
        return io.NodeOutput(file, ui=cls.say(f"wrote {file}, {len(regions)} masks"))


class LoadRegions(Node):
    """Regions from a JSON file and its PNG masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleLoadRegions",
            display_name="Load Regions",
            category=CATEGORY,
            description="Reads what Save Regions wrote, from ComfyUI's input folder, or from its output folder when "
            "the name ends in ' [output]'.",
            search_aliases=["import masks", "load masks"],
            inputs=[
                node_input(
                    io.String,
                    "file",
                    default="regions/regions_00001_.json [output]",
                    tooltip="The JSON file; its masks lie beside it. Put shared ones into the input folder.",
                )
            ],
            outputs=[node_output(REGIONS, "regions", tooltip="The regions, each with its words, style and mask.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None) -> str:
        from .regions import file_fingerprint

        return file_fingerprint(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .regions import load_from_folders

        regions = load_from_folders(file)
        return io.NodeOutput(regions, ui=cls.say(f"{len(regions)} regions: {', '.join(regions.phrases)}"))


class PreviewRegions(Node):
    """Regions drawn over their picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStylePreviewRegions",
            display_name="Preview Regions",
            category=CATEGORY,
            description="Draws every region over its picture with outline, words, style and score, readable on dark "
            "and light pictures. Small pictures are enlarged for it.",
            search_aliases=["show regions", "mask overlay"],
            is_output_node=True,
            inputs=[
                node_input(io.Image, "image", tooltip="The pictures the regions belong to."),
                regions_input(),
            ],
            outputs=[node_output(io.Image, "overlay", tooltip="The pictures with their regions drawn in.")],
        )

    @classmethod
    def execute(cls, image: Any, regions: Any) -> io.NodeOutput:
        from .regions import preview

        drawn = preview(image, regions)
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


NODES = [SaveRegions, LoadRegions, PreviewRegions]
