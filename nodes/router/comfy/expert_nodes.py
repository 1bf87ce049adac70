"""ComfyUI nodes that attach style experts and restyle a region with them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.unchanged import empty_masks
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override, settings_of
from ..settings import ExpertSettings, RestyleSettings


class StyleExpert(Node):
    """A style LoRA on a MODEL, everywhere or inside a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .experts import expert_choices

        return node_schema(
            node_id="RegionStyleExpert",
            display_name="Attach Style Expert",
            category="RegionStyle",
            description="Attaches a style LoRA to the model as an expert acting in its forward pass. Its weights "
            "stay as they are, so quantised and offloaded models work. Chain nodes for several styles.",
            search_aliases=["style lora", "cartoon", "watercolor", "regional lora", "lora mask"],
            inputs=[
                node_input(io.Model, "model", tooltip="The denoiser: SD1.5, SD2, SDXL, SD3 or FLUX.1."),
                node_input(
                    io.Combo,
                    "expert",
                    options=expert_choices(),
                    tooltip="A LoRA file from models/loras; those under "
                    "tinyworld/ come with the pack and fit its tiny world only.",
                ),
                *node_inputs(ExpertSettings, "strength"),
                node_input(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where the style acts: 1 is full, 0 none. Without a mask it "
                    "acts everywhere. Any size; it is resized to each layer's grid.",
                ),
                node_input(
                    io.String,
                    "style_words",  # not "style", which the output is called
                    default="",
                    optional=True,
                    tooltip="The style's words, for sentences and prompts. Empty: those of the file, else of its name "
                    "without version and fillers.",
                ),
            ],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="The model with the expert; the one given is unchanged."),
                node_output(
                    io.String, "style", tooltip="The style's words, for prompts; from the file, else its name."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, expert: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.expert_files import expert_mark

        return expert_mark(expert)

    @classmethod
    def validate_inputs(cls, expert: str | None = None) -> bool | str:
        """Names with "/" are right on Windows too, whose lists hold others."""
        from .experts import missing_expert

        return missing_expert(expert)

    @classmethod
    def execute(cls, model: Any, expert: str, strength: float, mask: Any, style_words: str) -> io.NodeOutput:
        from .experts import attach

        patched, style = attach(model, expert, strength, mask, style_words or "")
        said = cls.say(warning="" if mask is None else empty_masks(mask))  # there the style acts nowhere
        return io.NodeOutput(patched, style, ui=said)


class Restyle(Node):
    """Restyle the masked region of a picture; everything else stays bit for bit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRestyle",
            display_name="Restyle Region",
            category="RegionStyle",
            description="Redraws the region with the attached experts and leaves the rest: as one crop where it fits "
            "the model, in overlapping tiles at full size where it is larger. Where the output mask is 0 the picture "
            "equals the input bit for bit.",
            search_aliases=[
                "inpaint style",
                "edit region",
                "cartoon",
                "watercolor",
                "regional style",
                "style transfer",
            ],
            inputs=[*_restyle_inputs(), *restyle_settings_inputs(), *detail_inputs()],
            outputs=[
                # ids of their own, since 0.3.64 wants inputs and outputs to differ
                node_output(
                    io.Image,
                    "restyled_image",
                    display_name="image",
                    tooltip="The picture with the region restyled; same size as the input.",
                ),
                node_output(
                    io.Mask,
                    "restyled_mask",
                    display_name="mask",
                    tooltip="The mask it was blended with: feathered, 0 where nothing changed.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Any, mask: Any, prompt: str, negative: str, **settings: Any
    ) -> io.NodeOutput:
        from .experts import restyle_batch

        (chosen,) = settings_from(settings, RestyleSettings)
        result = restyle_batch(model, clip, vae, image, mask, prompt, negative, chosen)
        return io.NodeOutput(result.image, result.mask, ui=cls.say(result.notice, warning=result.warning))


def _restyle_inputs() -> list[Any]:
    return [
        node_input(
            io.Model, "model", tooltip="The denoiser with style experts attached; each acts inside the region only."
        ),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(io.Image, "image", tooltip="The picture; any size. A batch is done picture by picture."),
        node_input(
            io.Mask, "mask", tooltip="1 = restyle, 0 = keep. One mask or one per picture; another size is resized."
        ),
        node_input(
            io.String,
            "prompt",
            default="a red star in mosaic style",
            multiline=True,
            tooltip="What the region shall show, with the style's words.",
        ),
        node_input(io.String, "negative", default="", tooltip="What it shall not show; acts when cfg is not 1."),
        *node_inputs(RestyleSettings, "seed"),
    ]


def restyle_settings_inputs(own: bool = False) -> list[Any]:
    """How a region is redrawn, for every node that does it; own: strength 0 means what the style itself prefers."""
    help = settings_of(RestyleSettings)["strength"].help
    strength = override(help=f"{help} 0: each style's own, where its file names one.") if own else override(low=0.01)
    names = ("steps", "cfg", "strength", "margin", "feather", "largest_scale")
    return node_inputs(RestyleSettings, *names, strength=strength)


def detail_inputs() -> list[Any]:
    """At which size a region is worked on, for every node that redraws one: the last of its inputs."""
    return node_inputs(RestyleSettings, "detail")


NODES = [StyleExpert, Restyle]
