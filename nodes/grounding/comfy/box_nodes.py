"""ComfyUI nodes that find boxes and turn boxes into masks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_choice, check_range, node_input, node_output, node_schema
from ..finders.sam import BEST, MASK_CHOICES
from .network_nodes import CATEGORY, DETECTOR, SAM_EMBEDDING, VLM
from .region_nodes import REGIONS, regions_input

BOUNDING_BOX = io.Custom("BOUNDING_BOX")  # core's type, by its name: 0.3.64 has no class for it


class SegmentBoxes(io.ComfyNode):
    """Boxes and points to masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSegmentBoxes",
            display_name="Segment Boxes",
            category=CATEGORY,
            description="A soft mask for every box, with SAM: for regions found before, typed boxes, boxes of other "
            "nodes, or points alone. Points help the boxes they lie in. Each box keeps its own mask.",
            search_aliases=["sam", "segment anything", "sam mask", "box to mask", "points to mask"],
            inputs=[*_segment_inputs(), masks_input()],
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
        regions: Any = None,
        bboxes: Any = None,
        boxes: str = "",
        points_inside: str = "",
        points_outside: str = "",
        phrase: str = "object",
        masks: str = BEST,
    ) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .grounding import segment

        check_choice(masks, MASK_CHOICES, "masks")
        made = segment(embedding, regions, boxes, bboxes, points_inside, points_outside, phrase, masks)
        return io.NodeOutput(made, made.union(), ui=ui.PreviewText(not_found_notice(made) or f"{len(made)} regions"))


class DetectPhrases(io.ComfyNode):
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
    def execute(
        cls,
        detector: Any,
        image: Any,
        phrases: str,
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        strict: bool = False,
    ) -> io.NodeOutput:
        from .grounding import detect

        settings = detector_settings(box_threshold, text_threshold)
        regions, seen = detect(detector, image, phrases, settings, strict)
        return io.NodeOutput(regions, seen, ui=ui.PreviewText(seen))


class ReadWithVlm(io.ComfyNode):
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
        shown = "\n".join(filter(None, [not_found_notice(regions), sentence]))
        return io.NodeOutput(regions, sentence, reply, ui=ui.PreviewText(shown))


def detector_settings(box_threshold: float, text_threshold: float) -> Any:
    """Grounding DINO's settings, checked."""
    from ..finders.dino import DetectorSettings

    check_range(box_threshold, 0, 1, "box_threshold")
    check_range(text_threshold, 0, 1, "text_threshold")
    return DetectorSettings(box_threshold, text_threshold)


def _segment_inputs() -> list[Any]:
    return [
        node_input(SAM_EMBEDDING, "embedding", tooltip="The encoded picture, from Encode Image for SAM."),
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


def masks_input() -> Any:
    """Which of SAM's masks is taken."""
    return node_input(
        io.Combo,
        "masks",
        options=list(MASK_CHOICES),
        default=BEST,
        tooltip="SAM answers three masks (usually part, larger part, whole): the best by its own estimate, or always "
        "one of them; 'single' is its one answer for clear boxes, as the LEAST paper uses it.",
        advanced=True,
    )


def threshold_inputs() -> list[Any]:
    """Grounding DINO's two thresholds."""
    return [
        node_input(
            io.Float,
            "box_threshold",
            default=0.35,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Grounding DINO's boxes below this score are dropped: lower finds more, also wrong ones.",
            advanced=True,
        ),
        node_input(
            io.Float,
            "text_threshold",
            default=0.25,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="A word counts as seen in a box of Grounding DINO from this probability on; a box in which no word "
            "was seen is dropped.",
            advanced=True,
        ),
    ]


def strict_input() -> Any:
    """Whether a thing that is not found is an error."""
    return node_input(
        io.Boolean,
        "strict",
        default=False,
        tooltip="On: a thing that is not found stops the workflow with an error. Off: it gives an empty mask and a "
        "notice.",
        advanced=True,
    )


NODES = [SegmentBoxes, DetectPhrases, ReadWithVlm]
