"""ComfyUI nodes that make regions, and turn them into masks and words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.errors import wrong_input
from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.regions import REGIONS_TYPE, Regions
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.sockets import custom_socket
from ..settings import AttentionSettings
from .attention_nodes import model_inputs, search_inputs

REGIONS = custom_socket(REGIONS_TYPE, Regions)
CATEGORY = "RegionStyle/regions"


def regions_input(name: str = "regions", **options: Any) -> Any:
    """A socket for REGIONS."""
    return node_input(
        REGIONS, name, **{"tooltip": "Regions: each with its words, style, score and mask per picture.", **options}
    )


class ParsePrompt(Node):
    """A sentence read into things and styles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleParsePrompt",
            display_name="Read Sentence",
            category=CATEGORY,
            description="Reads which things a sentence wants in which styles, without any network, and shows what it "
            "understood. A sentence it does not understand is an error that says which part.",
            search_aliases=["parse prompt", "split prompt", "phrases"],
            inputs=[
                node_input(
                    io.String,
                    "sentence",
                    default="make the red star mosaic and the moon neon",
                    multiline=True,
                    tooltip="For example 'apply cubism to the second cat from the left, make the sky pixel art'.",
                ),
                node_input(
                    io.Int, "number", default=1, min=1, max=64, tooltip="Which of the things phrase and style are for."
                ),
            ],
            outputs=[
                node_output(io.String, "phrase", tooltip="The words for the chosen thing."),
                node_output(io.String, "style", tooltip="The style asked for it."),
                node_output(io.String, "phrases", tooltip="All things, one per line."),
                node_output(io.String, "styles", tooltip="Their styles, one per line."),
                node_output(io.Int, "count", tooltip="How many things were named."),
            ],
        )

    @classmethod
    def execute(cls, sentence: str, number: int) -> io.NodeOutput:
        from ..language.prompt import parse_sentence

        read = parse_sentence(sentence)
        if number > len(read.requests):
            accepts = f"a number from 1 to {len(read.requests)}, as so many things are named"
            raise wrong_input("number", number, accepts, "Give one of these.")
        chosen = read.requests[number - 1]
        phrases, styles = ("\n".join(getattr(one, name) for one in read.requests) for name in ("phrase", "style"))
        text = cls.say(str(read))
        return io.NodeOutput(chosen.phrase, chosen.style, phrases, styles, len(read.requests), ui=text)


class RegionsFromMask(Node):
    """Any pack's MASK as a region with words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRegionsFromMask",
            display_name="Regions from Mask",
            category=CATEGORY,
            description="Gives a mask its words, so that it can be used as a region. Any mask plugs in: painted, from "
            "SAM 3, or from another pack. Chain nodes for several regions.",
            search_aliases=["mask to regions", "name mask"],
            inputs=[
                node_input(io.Mask, "mask", tooltip="1 is the thing, 0 is not; one mask or one per picture."),
                regions_input(optional=True, tooltip="Regions of the same pictures to add to; the mask is resized."),
                node_input(io.String, "phrase", default="red star", tooltip="Words for what the mask covers."),
                node_input(io.String, "style", default="", tooltip="The style it shall get; may stay empty."),
            ],
            outputs=[
                node_output(
                    REGIONS,
                    "named_regions",
                    display_name="regions",
                    tooltip="Those given, then one per mask. An empty mask is a thing not found, score 0.",
                )
            ],
        )

    @classmethod
    def execute(cls, mask: Any, phrase: str, style: str, regions: Any) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from .regions import regions_from_mask

        made = regions_from_mask(mask, phrase, style, regions)
        return io.NodeOutput(made, ui=cls.say(f"{len(made)} regions", warning=not_found_notice(made)))


class RegionsFromAttention(Node):
    """The things of a sentence, by the model's own attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sentence = node_input(
            io.String,
            "sentence",
            default="make the red star mosaic and the moon neon",
            multiline=True,
            tooltip="What to find, with or without styles: 'the red star, the moon' or 'make the largest dog neon'.",
        )
        return node_schema(
            node_id="RegionStyleRegionsFromAttention",
            display_name="Find Regions by Attention",
            category=CATEGORY,
            description="Finds every thing a sentence names with the model's own attention, each with its own mask. "
            "Understands positions, numbers, 'all', 'background' and things to keep.",
            search_aliases=["text2mask", "text to masks", "clipseg", "grounding", "phrase masks"],
            inputs=[*model_inputs(), sentence, *search_inputs()],
            outputs=[
                node_output(REGIONS, "regions", tooltip="One or more per thing; not found: empty mask and score 0."),
                node_output(io.Mask, "mask", tooltip="All of them together; one mask per picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        sentence: str,
        strict: bool,
        **settings: Any,
    ) -> io.NodeOutput:
        from .regions import attention_regions

        (chosen,) = settings_from(settings, AttentionSettings)
        found, understood = attention_regions(model, clip, vae, image, sentence, chosen, strict)
        said = cls.say(understood, warning=found.notice)
        return io.NodeOutput(found.regions, found.regions.union(), ui=said)


class RegionsToMasks(Node):
    """Masks and words of regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRegionsToMasks",
            display_name="Regions to Masks",
            category=CATEGORY,
            description="The masks of all regions, or of those of one phrase, and their words.",
            search_aliases=["phrase mask", "split regions"],
            inputs=[
                regions_input(),
                node_input(
                    io.String, "phrase", default="", tooltip="Only the regions with these words. Empty: all of them."
                ),
            ],
            outputs=[
                node_output(
                    io.Mask, "mask", tooltip="Their union; one mask per picture, so the batch keeps its length."
                ),
                node_output(io.Mask, "masks", tooltip="A mask for every region, in order, over all pictures."),
                node_output(io.String, "phrases", tooltip="The words of every region, one per line."),
                node_output(io.String, "styles", tooltip="The style of every region, one per line."),
            ],
        )

    @classmethod
    def execute(cls, regions: Any, phrase: str) -> io.NodeOutput:
        from .regions import masks_and_words

        return io.NodeOutput(*masks_and_words(regions, phrase))


class PickRegions(Node):
    """Some of the regions, sorted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ...engine.language.instruction import ORDERS

        return node_schema(
            node_id="RegionStylePickRegions",
            display_name="Pick Regions",
            category=CATEGORY,
            description="Sorts the regions of every picture and takes some of them: the leftmost, the two largest.",
            search_aliases=["sort regions", "select region", "filter masks"],
            inputs=[
                regions_input(),
                node_input(
                    io.String, "phrase", default="", tooltip="Only the regions with these words. Empty: all of them."
                ),
                node_input(
                    io.Combo,
                    "order",
                    options=["as they are", *ORDERS],
                    default="as they are",
                    tooltip="What comes first: 'left' the leftmost, 'largest' the one of the largest mask.",
                ),
                node_input(
                    io.Int, "first", default=1, min=1, max=999, tooltip="Take from this one on; 1 is the first."
                ),
                node_input(io.Int, "count", default=0, min=0, max=999, tooltip="How many per picture; 0 takes all."),
            ],
            outputs=[
                node_output(
                    REGIONS,
                    "picked_regions",
                    display_name="regions",
                    tooltip="The picked ones. A picture with none of them keeps an empty mask, score 0.",
                )
            ],
        )

    @classmethod
    def execute(cls, regions: Any, phrase: str, order: str, first: int, count: int) -> io.NodeOutput:
        from ...engine.region.regions import not_found_notice
        from ..masks.composition import pick

        chosen = regions.of_phrase(phrase.strip()) if phrase.strip() else regions
        made = pick(chosen, "" if order == "as they are" else order, first, count or None)
        return io.NodeOutput(made, ui=cls.say(f"{len(made)} regions", warning=not_found_notice(made)))


NODES = [ParsePrompt, RegionsFromAttention, RegionsFromMask, PickRegions, RegionsToMasks]
