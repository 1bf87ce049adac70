"""ComfyUI nodes that load networks which find and cut out things."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.node import Node
from ...engine.settings.sockets import custom_socket
from ..finders.dino import Detector
from ..finders.sam import SamEmbedding, SamNetwork
from ..finders.vlm import Vlm

SAM = custom_socket("REGIONSTYLE_SAM", SamNetwork)
SAM_EMBEDDING = custom_socket("REGIONSTYLE_SAM_EMBEDDING", SamEmbedding)
DETECTOR = custom_socket("REGIONSTYLE_DETECTOR", Detector)
VLM = custom_socket("REGIONSTYLE_VLM", Vlm)
CATEGORY = "RegionStyle/grounding"


class LoadSam(Node):
    """A Segment Anything network from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .networks import sam_choices

        return node_schema(
            node_id="RegionStyleLoadSam",
            display_name="Load SAM",
            category=CATEGORY,
            description="Loads a Segment Anything network (vit_b, vit_l or vit_h). Which one it is, is read off the "
            "weights. Nothing is downloaded.",
            search_aliases=["sam", "segment anything", "sam loader"],
            inputs=[
                node_input(
                    io.Combo,
                    "file",
                    options=sam_choices(),
                    tooltip="A .pth or .safetensors in models/sams: sam_vit_b_01ec64.pth (375 MB), "
                    "sam_vit_l_0b3195.pth, sam_vit_h_4b8939.pth (best). tinyworld/ fits the tiny world only.",
                )
            ],
            outputs=[
                node_output(SAM, "sam", tooltip="The network; it goes to the device when it is used."),
                node_output(io.String, "network", tooltip="Which network the file holds, for example vit_b."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.comfy_files import chosen_mark
        from .networks import SAMS

        return chosen_mark(SAMS, file)

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        from .networks import SAMS, missing

        return missing(SAMS, file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .networks import load_sam_file

        network = load_sam_file(file)
        return io.NodeOutput(network, network.name)


class EncodeImage(Node):
    """The expensive half of SAM, once per picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleEncodeImage",
            display_name="Encode Image for SAM",
            category=CATEGORY,
            description="Runs SAM's large image encoder. The result is kept while image and network stay the same, so "
            "every further prompt about the picture costs only a fraction of a second.",
            search_aliases=["sam", "sam embedding", "segment anything"],
            inputs=[
                node_input(SAM, "sam", tooltip="The network, from Load SAM."),
                node_input(io.Image, "image", tooltip="The picture or a batch of pictures; any size."),
            ],
            outputs=[
                node_output(SAM_EMBEDDING, "embedding", tooltip="The encoded pictures, together with their network.")
            ],
        )

    @classmethod
    def execute(cls, sam: Any, image: Any) -> io.NodeOutput:
        from .networks import encode_image

        return io.NodeOutput(encode_image(sam, image))


class LoadDetector(Node):
    """A Grounding DINO network from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .networks import DETECTORS, folder_choices

        return node_schema(
            node_id="RegionStyleLoadDetector",
            display_name="Load Grounding DINO",
            category=CATEGORY,
            description="Loads a Grounding DINO network, which finds the boxes of things by their words. Nothing is "
            "downloaded.",
            search_aliases=["grounding dino", "detector", "open vocabulary"],
            inputs=[
                node_input(
                    io.Combo,
                    "folder",
                    options=folder_choices(DETECTORS),
                    tooltip="A folder in models/grounding_dino with all files of IDEA-Research/grounding-dino-tiny "
                    "(0.7 GB) or grounding-dino-base.",
                )
            ],
            outputs=[node_output(DETECTOR, "detector", tooltip="The network; it goes to the device when it is used.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.comfy_files import chosen_mark
        from .networks import DETECTORS

        return chosen_mark(DETECTORS, folder, "config.json")

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        from .networks import DETECTORS, missing

        return missing(DETECTORS, folder)

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        from .networks import load_detector

        return io.NodeOutput(load_detector(folder))


class LoadVlm(Node):
    """A vision-language model from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .networks import VLMS, folder_choices

        return node_schema(
            node_id="RegionStyleLoadVlm",
            display_name="Load Vision-Language Model",
            category=CATEGORY,
            description="Loads a LLaVA or Qwen-VL model, which reads a request together with the picture. Nothing is "
            "downloaded.",
            search_aliases=["llava", "qwen vl", "vlm"],
            inputs=[
                node_input(
                    io.Combo,
                    "folder",
                    options=folder_choices(VLMS),
                    tooltip="A folder in models/LLM with all files of, for example, Qwen/Qwen3-VL-4B-Instruct, "
                    "Qwen/Qwen2.5-VL-7B-Instruct or llava-hf/llava-v1.6-mistral-7b-hf.",
                )
            ],
            outputs=[node_output(VLM, "vlm", tooltip="The network; it goes to the device when it is used.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.comfy_files import chosen_mark
        from .networks import VLMS

        return chosen_mark(VLMS, folder, "config.json")

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        from .networks import VLMS, missing

        return missing(VLMS, folder)

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        from .networks import load_vlm

        return io.NodeOutput(load_vlm(folder))


NODES = [LoadSam, EncodeImage, LoadDetector, LoadVlm]
