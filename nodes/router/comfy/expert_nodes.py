"""ComfyUI nodes that attach style experts and restyle a region with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_range, node_input, node_output, node_schema

if TYPE_CHECKING:
    from ..restyle import RestyleSettings


class StyleExpert(io.ComfyNode):
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
                node_input(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How strongly the style "
                    "acts: 0 is off (the plain model, bit for bit), 1 as trained, negative pushes away from it.",
                ),
                node_input(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where the style acts: 1 is full, 0 none. Without a mask it "
                    "acts everywhere. Any size; it is resized to each layer's grid.",
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
    def execute(cls, model: Any, expert: str, strength: float = 1.0, mask: Any = None) -> io.NodeOutput:
        from .experts import attach

        check_range(strength, -4, 4, "strength")
        return io.NodeOutput(*attach(model, expert, strength, mask))


class Restyle(io.ComfyNode):
    """Restyle the masked region of a picture; everything else stays bit for bit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleRestyle",
            display_name="Restyle Region",
            category="RegionStyle",
            description="Cuts the region out with a margin, redraws it at the model's size with the attached experts, "
            "and pastes it back. Where the output mask is 0 the picture equals the input bit for bit.",
            search_aliases=["inpaint style", "harmonize", "cartoon", "watercolor", "regional style", "style transfer"],
            inputs=[*_restyle_inputs(), *restyle_settings_inputs()],
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
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        mask: Any,
        prompt: str,
        negative: str = "",
        seed: int = 0,
        steps: int = 20,
        cfg: float = 7.0,
        strength: float = 0.6,
        margin: float = 0.25,
        feather: int = 2,
        enlarge: float = 1.0,
    ) -> io.NodeOutput:
        from .experts import restyle_batch

        settings = checked_settings(seed, steps, cfg, strength, margin, feather, enlarge)
        result = restyle_batch(model, clip, vae, image, mask, prompt, negative, settings)
        return io.NodeOutput(result.image, result.mask, ui=ui.PreviewText(result.notice))


def checked_settings(
    seed: int,
    steps: int,
    cfg: float,
    strength: float,
    margin: float,
    feather: int,
    enlarge: float,
    own: bool = False,
) -> RestyleSettings:
    """The settings of `restyle_settings_inputs`, made for the same `own`; RegionStyleError for a value out of range."""
    from ..restyle import RestyleSettings

    for name, value, low, high in (
        ("strength", strength, 0 if own else 0.01, 1),
        ("steps", steps, 1, 1000),
        ("cfg", cfg, 0, 100),
        ("margin", margin, 0, 4),
        ("feather", feather, -256, 256),
        ("enlarge", enlarge, 0.05, 64),
    ):
        check_range(value, low, high, name)
    return RestyleSettings(strength, int(steps), cfg, int(seed), margin, int(feather), enlarge)


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
        node_input(
            io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True, tooltip="Seed of the noise."
        ),
    ]


def restyle_settings_inputs(own: bool = False) -> list[Any]:
    """How a region is redrawn, for every node that does it; own: strength 0 means what the style itself prefers."""
    low = " 0: each style's own, where its file names one." if own else ""
    return [
        node_input(
            io.Int, "steps", default=20, min=1, max=1000, tooltip="Sampling steps. SD1.5 about 20, tiny world 6."
        ),
        node_input(
            io.Float,
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance. 1 is off and half the work (right for the tiny world's experts); SD1.5 about 7.",
        ),
        node_input(
            io.Float,
            "strength",
            default=0.6,
            min=0.0 if own else 0.01,
            max=1.0,
            step=0.01,
            tooltip=f"How much is redrawn: low keeps the drawing, 1 draws anew. SD1.5 about 0.6, tiny world 0.3.{low}",
        ),
        node_input(
            io.Float,
            "margin",
            default=0.25,
            min=0.0,
            max=4.0,
            step=0.05,
            tooltip="Context around the region, as a share of its size.",
            advanced=True,
        ),
        node_input(
            io.Int,
            "feather",
            default=2,
            min=-256,
            max=256,
            tooltip="Seam in pixels; positive grows outwards, negative "
            "inwards, so that nothing outside the mask changes.",
            advanced=True,
        ),
        node_input(
            io.Float,
            "enlarge",
            default=1.0,
            min=0.05,
            max=64.0,
            step=0.05,
            tooltip="How far a small region may be "
            "enlarged before it is redrawn: 1 never, 4 up to four times. More detail, coarser texture scale.",
            advanced=True,
        ),
    ]


NODES = [StyleExpert, Restyle]
