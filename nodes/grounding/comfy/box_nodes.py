"""ComfyUI nodes that find boxes and turn boxes into masks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.sockets import custom_socket
from ..settings import DetectorSettings, Finding, OutlineSettings, SegmentSettings
from .network_nodes import CATEGORY, DETECTOR, SAM_EMBEDDING, VLM
from .region_nodes import REGIONS, regions_input

BOUNDING_BOX = custom_socket("BOUNDING_BOX", dict, list)  # core's type, by its name: 0.3.64 has no class for it


class SegmentBoxes(Node):
    """Boxes and points to masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSegmentBoxes",
            display_name="Segment Boxes",
            category=CATEGORY,
            description="A soft mask for every box, with SAM or without: for regions found before, typed boxes, boxes "
            "of other nodes, or points alone. Points help the boxes they lie in. Each box keeps its own mask.",
            search_aliases=["grabcut", "sam", "segment anything", "sam mask", "box to mask", "points to mask"],
            inputs=[*_segment_inputs(), masks_input(), *_outline_inputs()],
            outputs=[
                node_output(
                    REGIONS,
                    "segmented_regions",
                    display_name="regions",
                    tooltip="One per box and picture: words, style, soft mask; score: the box's times SAM's own.",
                ),
                node_output(io.Mask, "mask", tooltip="All of them together; one mask per picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        embedding: Any,
        regions: Any,
        bboxes: Any,
        boxes: str,
        points_inside: str,
        points_outside: str,
        phrase: str,
        masks: str,
        outline: str,
        image: Any,
    ) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .grounding import BoxRequest, outline_request

        request = BoxRequest(regions, boxes, bboxes, points_inside, points_outside, phrase)
        made = outline_request(request, outline, embedding, image, masks)
        warning = "\n".join(filter(None, [not_found_notice(made.regions), *made.notices]))
        said = cls.say(f"{len(made.regions)} regions, outlined by {made.said}", warning=warning)
        return io.NodeOutput(made.regions, made.regions.union(), ui=said)


class DetectPhrases(Node):
    """Phrases to boxes with Grounding DINO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        phrases = node_input(
            io.String,
            "phrases",
            default="a cat. a dog.",
            multiline=True,
            tooltip="The things to find, one per line or between commas, semicolons or full stops. "
            "Each is asked for by itself.",
        )
        return node_schema(
            node_id="RegionStyleDetectPhrases",
            display_name="Detect Phrases",
            category=CATEGORY,
            description="Every box of every phrase, with Grounding DINO. Each phrase keeps its own boxes, whatever "
            "else is asked for; one that is not there is an empty region and a notice, or an error when strict.",
            search_aliases=["grounding dino", "text to boxes", "open vocabulary detection"],
            inputs=[
                node_input(DETECTOR, "detector", tooltip="The network, from Load Grounding DINO."),
                node_input(io.Image, "image", tooltip="The picture or a batch of pictures; any size."),
                phrases,
                *threshold_inputs(),
                strict_input(),
            ],
            outputs=[
                node_output(
                    REGIONS, "regions", tooltip="One per box, the best first; the masks are full boxes: segment them."
                ),
                node_output(io.String, "seen", tooltip="Scores, and which words were seen in each box."),
            ],
        )

    @classmethod
    def execute(cls, detector: Any, image: Any, phrases: str, strict: bool, **thresholds: Any) -> io.NodeOutput:
        from .grounding import detect

        (chosen,) = settings_from(thresholds, DetectorSettings)
        regions, notice, seen = detect(detector, image, phrases, chosen, strict)
        return io.NodeOutput(regions, seen, ui=cls.say(seen, warning=notice))


class ReadWithVlm(Node):
    """A request read together with the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleReadWithVlm",
            display_name="Read Request with VLM",
            category=CATEGORY,
            description="A vision-language model reads a request in free words and the picture, and answers with "
            "things, styles and boxes. For requests that the rules of Read Sentence do not understand.",
            search_aliases=["llava", "qwen vl", "parse prompt"],
            inputs=[
                node_input(VLM, "vlm", tooltip="The network, from Load Vision-Language Model."),
                node_input(io.Image, "image", tooltip="The picture or a batch of pictures; each is asked about."),
                node_input(
                    io.String,
                    "request",
                    default="the one who is sleeping should look like a woodcut",
                    multiline=True,
                    tooltip="What to change, in any words.",
                ),
            ],
            outputs=[
                node_output(REGIONS, "regions", tooltip="Things with styles and boxes; without a box: empty, score 0."),
                node_output(io.String, "sentence", tooltip="'thing: style' lines, which every sentence input reads."),
                node_output(io.String, "reply", tooltip="The model's own words."),
            ],
        )

    @classmethod
    def execute(cls, vlm: Any, image: Any, request: str) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .grounding import ask_vlm

        regions, sentence, reply = ask_vlm(vlm, image, request)
        said = cls.say(sentence, warning=not_found_notice(regions))
        return io.NodeOutput(regions, sentence, reply, ui=said)


def _segment_inputs() -> list[Any]:
    return [
        node_input(
            SAM_EMBEDDING,
            "embedding",
            optional=True,
            tooltip="The encoded picture, from Encode Image for SAM; for outline sam.",
        ),
        regions_input(optional=True, tooltip="Regions of the same picture; each one's box becomes a mask."),
        node_input(
            BOUNDING_BOX,
            "bboxes",
            optional=True,
            extra_dict={"forceInput": True},  # else ComfyUI shows a box of 512 px there and sends it unasked
            tooltip="Boxes of ComfyUI's own nodes (Create Bounding Boxes, RT-DETR, SAM 3; since 0.33).",
        ),
        node_input(
            io.String,
            "boxes",
            default="",
            multiline=True,
            tooltip="Boxes in pixels, a line each: left, top, right, bottom. The same for all pictures of a batch.",
        ),
        node_input(
            io.String,
            "points_inside",
            default="",
            tooltip="Points on the thing: 'x, y; x, y' in pixels, or the JSON of a points editor. Given with every box "
            "that holds them; without any box they stand for one thing.",
        ),
        node_input(
            io.String,
            "points_outside",
            default="",
            tooltip="Points that do not belong to the thing, in the same form.",
        ),
        node_input(
            io.String,
            "phrase",
            default="object",
            tooltip="Words for typed boxes, for boxes without a label, and points.",
        ),
    ]


def _outline_inputs() -> list[Any]:
    tooltip = "The picture, for outline grabcut and box. With sam the embedding is of it already."
    return [*node_inputs(OutlineSettings, "outline"), node_input(io.Image, "image", optional=True, tooltip=tooltip)]


def masks_input() -> Any:
    """Which of SAM's masks is taken."""
    return node_inputs(SegmentSettings, "masks")[0]


def threshold_inputs() -> list[Any]:
    """Grounding DINO's two thresholds."""
    return node_inputs(DetectorSettings, "box_threshold", "text_threshold")


def strict_input() -> Any:
    """Whether a thing that is not found is an error."""
    return node_inputs(Finding, "strict")[0]


NODES = [SegmentBoxes, DetectPhrases, ReadWithVlm]
