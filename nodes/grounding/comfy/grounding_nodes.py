"""ComfyUI node from a sentence to a mask per thing."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.errors import wrong_input
from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ..settings import DetectorSettings
from .box_nodes import masks_input, strict_input, threshold_inputs
from .network_nodes import CATEGORY, DETECTOR, SAM_EMBEDDING, VLM
from .region_nodes import REGIONS, regions_input


class TextGroundedMask(Node):
    """A sentence and a picture to a mask per thing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleTextGroundedMask",
            display_name="Text Grounded SAM Mask",
            category=CATEGORY,
            description="Reads a sentence, finds every thing in it and gives each its own soft mask, with SAM. Connect "
            "what shall find the boxes: exactly one of detector, vlm, regions, or model with clip and vae. "
            "Understands positions, numbers, 'all', 'background' and things to keep.",
            search_aliases=[
                "sam",
                "grounded sam",
                "segment anything",
                "text2mask",
                "text to mask",
                "clipseg",
                "phrase masks",
                "segment by text",
            ],
            inputs=[*_sentence_inputs(), *_finder_inputs(), *threshold_inputs(), masks_input(), strict_input()],
            outputs=[
                node_output(
                    REGIONS,
                    "found_regions",
                    display_name="regions",
                    tooltip="One or more per thing and picture; not found: empty mask and score 0.",
                ),
                # an id of its own, since 0.3.64 wants inputs and outputs to differ
                node_output(
                    io.Mask,
                    "region_masks",
                    display_name="masks",
                    tooltip="A mask for every region, in the order of phrases and styles.",
                ),
                node_output(io.Mask, "mask", tooltip="All of them together; one mask per picture."),
                node_output(io.String, "phrases", tooltip="The words of every region, one per line."),
                node_output(io.String, "styles", tooltip="The style of every region, one per line."),
                node_output(io.Image, "overlay", tooltip="The pictures with regions, words and scores drawn in."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        embedding: Any,
        sentence: str,
        detector: Any,
        vlm: Any,
        regions: Any,
        model: Any,
        clip: Any,
        vae: Any,
        masks: str,
        strict: bool,
        **thresholds: Any,
    ) -> io.NodeOutput:
        from .grounding import ground_sentence
        from .regions import masks_and_words, preview

        (settings,) = settings_from(thresholds, DetectorSettings)
        if detector is None and settings != (usual := DetectorSettings()):
            got = f"{settings.box_threshold} and {settings.text_threshold}"
            accepts = f"{usual.box_threshold} and {usual.text_threshold} where no detector is connected"
            raise wrong_input("box_threshold, text_threshold", got, accepts, "Only Grounding DINO has such scores.")
        sources = {"detector": detector, "vlm": vlm, "regions": regions, "denoiser": (model, clip, vae)}
        found = ground_sentence(image, sentence, embedding, sources, settings, masks, strict)
        union, each, phrases, styles = masks_and_words(found.regions, "")
        text = cls.say("\n".join(dict.fromkeys(found.understood)), warning=found.notice)
        return io.NodeOutput(found.regions, each, union, phrases, styles, preview(image, found.regions), ui=text)


def _sentence_inputs() -> list[Any]:
    return [
        node_input(io.Image, "image", tooltip="The picture or a batch of pictures; any size."),
        node_input(SAM_EMBEDDING, "embedding", tooltip="The same picture, from Encode Image for SAM."),
        node_input(
            io.String,
            "sentence",
            default="make the red star mosaic and the moon neon",
            multiline=True,
            tooltip="What to find, with or without styles: 'the red star, the moon' or 'make the largest dog neon'. "
            "With vlm: any words.",
        ),
    ]


def _finder_inputs() -> list[Any]:
    return [
        node_input(DETECTOR, "detector", optional=True, tooltip="Finds boxes with Grounding DINO: the usual choice."),
        node_input(VLM, "vlm", optional=True, tooltip="Reads the words and finds boxes with LLaVA or Qwen-VL."),
        regions_input(optional=True, tooltip="Your own boxes: regions named as the sentence names the things."),
        node_input(
            io.Model, "model", optional=True, tooltip="Finds boxes with this denoiser's attention: SD1.5 class."
        ),
        node_input(io.Clip, "clip", optional=True, tooltip="The denoiser's text encoder; only with model."),
        node_input(io.Vae, "vae", optional=True, tooltip="The denoiser's autoencoder; only with model."),
    ]


NODES = [TextGroundedMask]
