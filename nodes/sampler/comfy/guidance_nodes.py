"""ComfyUI nodes that guide samplers by attention."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.region.regions import REGIONS_TYPE, Regions
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.sockets import custom_socket
from ..settings import GuidanceSettings, LockSettings, MapSettings, SamplingSettings

CATEGORY = "RegionStyle/attention"
REGIONS = custom_socket(REGIONS_TYPE, Regions)
METHOD = ("form", "end", "bias", "step", "repeats", "stop", "words", "attention", "focus", "cover", "tau", "kappa")


class AttentionGuidance(Node):
    """A MODEL whose samplers hold words to their regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleAttentionGuidance",
            display_name="Attention Guidance",
            category=CATEGORY,
            description="Holds words of the prompt to their regions while any sampler node runs: by a bias on their "
            "attention, by moving the latent down the gradient of attention losses, or by blending one prediction per "
            "region. No training, no other network; the MODEL given is unchanged.",
            search_aliases=["regional prompt", "attend and excite", "layout guidance", "attention couple", "boxdiff"],
            inputs=[*_guided(), *node_inputs(GuidanceSettings, *METHOD)],
            outputs=[
                node_output(io.Model, "MODEL", tooltip="The guided model, for any sampler node."),
                node_output(
                    io.Conditioning,
                    "positive",
                    tooltip="The prompt, encoded: the sampler's positive. Guidance acts where this prompt runs.",
                ),
                node_output(io.String, "tokens", tooltip="Which tokens of the prompt are held, and all of them."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, regions: Any, prompt: str, **settings: Any) -> io.NodeOutput:
        from .guidance import guide_model, show_losses

        (chosen,) = settings_from(settings, GuidanceSettings)
        guided = guide_model(model, clip, prompt, regions, chosen, show_losses)
        said = cls.say(guided.notice, warning=guided.warning)
        return io.NodeOutput(guided.model, guided.positive, guided.notice, ui=said)


class BackgroundLock(Node):
    """A MODEL whose samplers leave the background as it was."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleBackgroundLock",
            display_name="Background Lock",
            category=CATEGORY,
            description="Holds the latent outside the mask as the source's at every step of any sampler node, for "
            "every family of models. The last steps can be set free so that the seam heals.",
            search_aliases=["latent mask", "inpaint", "blended diffusion", "keep background"],
            inputs=[
                node_input(io.Model, "model", tooltip="The denoiser, of any family of pictures; guided or not."),
                node_input(io.Mask, "mask", tooltip="1 = free, 0 = held; of the shape that is sampled, any size."),
                *node_inputs(LockSettings, "release"),
                node_input(
                    io.Latent,
                    "source",
                    optional=True,
                    tooltip="The latent to hold. Not connected: the one that the sampler starts from.",
                ),
            ],
            outputs=[node_output(io.Model, "MODEL", tooltip="The locked model; the one given is unchanged.")],
        )

    @classmethod
    def execute(cls, model: Any, mask: Any, release: int, source: Any) -> io.NodeOutput:
        from .lock import lock_background

        warning = "" if bool((mask > 0).any()) else "the mask is empty: nothing will change"
        warning = warning or ("" if bool((mask < 1).any()) else "the mask is full: nothing is held")
        latent = None if source is None else source["samples"]
        return io.NodeOutput(lock_background(model, mask, latent, LockSettings(release)), ui=cls.say(warning=warning))


class AttentionSampler(Node):
    """Attention guidance, background lock and a sampler in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleAttentionSampler",
            display_name="Attention Supervised Sampler",
            category=CATEGORY,
            description="Samples with words held to their regions, shows their attention beside the preview and the "
            "losses of every step, and can hold everything outside the regions.",
            search_aliases=["regional sampler", "attention sampler", "layout guidance", "ksampler"],
            inputs=[
                *_guided(),
                node_input(
                    io.Latent,
                    "latent_image",
                    tooltip="An empty latent, or an encoded picture to start from.",
                ),
                node_input(
                    io.String, "negative", default="", multiline=True, tooltip="What the picture shall not show."
                ),
                *node_inputs(SamplingSettings, "seed", "steps", "cfg"),
                *_samplers(),
                *node_inputs(SamplingSettings, "denoise"),
                *node_inputs(GuidanceSettings, *METHOD[:4]),
                node_input(
                    io.Boolean,
                    "lock",
                    default=False,
                    tooltip="Hold the latent outside all regions as latent_image has it, which must not be empty then.",
                ),
                *node_inputs(LockSettings, "release"),
                *node_inputs(GuidanceSettings, *METHOD[4:]),
            ],
            outputs=[
                node_output(io.Latent, "samples", display_name="latent", tooltip="The sampled latent."),
                node_output(
                    io.Image,
                    "attention_strip",
                    display_name="attention",
                    tooltip="Attention of every phrase, a row each, over the steps from left to right; yellow is high.",
                ),
                node_output(io.Image, "curves", tooltip="The Focus and Cover losses over the steps."),
                node_output(io.String, "losses", tooltip="The losses of every step, a line each."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        regions: Any,
        prompt: str,
        latent_image: Any,
        negative: str,
        sampler_name: str,
        scheduler: str,
        lock: bool,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..maps import step_lines
        from .sampling import sample_guided

        chosen, sampling, held = settings_from(settings, GuidanceSettings, SamplingSettings, LockSettings)
        made = sample_guided(
            model, clip, prompt, negative, regions, latent_image, sampler_name, scheduler, chosen, sampling,
            held if lock else None, cls.say,
        )  # fmt: skip
        lines = step_lines(made.records)
        said = cls.say(f"{made.notice}\n{lines}", warning=made.warning)
        return io.NodeOutput(made.latent, made.attention, made.losses, lines, ui=said)


class AttentionMap(Node):
    """Where a model attends to phrases."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleAttentionMap",
            display_name="Attention Map",
            category=CATEGORY,
            description="Shows where a model attends to phrases of a prompt, by layer and noise level: as masks and as "
            "pictures. Looks only; nothing is found, cut or chosen (Find by Attention does that).",
            search_aliases=["daam", "attention heatmap", "cross attention", "visualize attention"],
            inputs=[
                node_input(
                    io.Model, "model", tooltip="The denoiser: SD1.5, SD2, SDXL, SD3 or FLUX.1. Experts are off."
                ),
                node_input(io.Clip, "clip", tooltip="The model's text encoder."),
                node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
                node_input(io.Image, "image", tooltip="The picture that is looked at, at its own size."),
                node_input(
                    io.String,
                    "prompt",
                    default="a red star in mosaic style",
                    multiline=True,
                    tooltip="What the model is told; the phrases must stand in it.",
                ),
                node_input(
                    io.String,
                    "phrases",
                    default="red star\nmosaic",
                    multiline=True,
                    tooltip="Words of the prompt, one phrase a line; each gets a map.",
                ),
                *node_inputs(MapSettings, "level", "layers", "attention", "draws", "seed"),
            ],
            outputs=[
                node_output(
                    io.Mask,
                    "masks",
                    tooltip="A mask per phrase, 0 to 1; all phrases of the first picture, then the next.",
                ),
                node_output(io.Image, "pictures", tooltip="The same laid over the picture; yellow is high."),
                node_output(
                    io.String, "layer_names", display_name="layers", tooltip="All layers, and which are shown."
                ),
                node_output(io.String, "tokens", tooltip="The prompt's tokens; those of phrases in brackets."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Any, prompt: str, phrases: str, **settings: Any
    ) -> io.NodeOutput:
        from .sampling import look_at

        (chosen,) = settings_from(settings, MapSettings)
        seen = look_at(model, clip, vae, image, prompt, phrases, chosen)
        return io.NodeOutput(seen.masks, seen.pictures, seen.layers, seen.tokens, ui=cls.say(seen.tokens))


def _guided() -> list[Any]:
    """What is guided, and by what."""
    return [
        node_input(
            io.Model, "model", tooltip="The denoiser: SD1.5, SD2, SDXL, SD3 or FLUX.1 (gradient: SD1.5, SD2 or SDXL)."
        ),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(
            REGIONS,
            "regions",
            tooltip="What belongs where: phrases, styles and masks, of the shape that is sampled. From Mask to "
            "Regions, or any node that finds regions.",
        ),
        node_input(
            io.String,
            "prompt",
            default="",
            multiline=True,
            tooltip="The prompt, with the regions' phrases and styles in it. Weights such as (mosaic:1.2) are allowed. "
            "Empty: 'a PHRASE in STYLE style and ...' is made of the regions.",
        ),
    ]


def _samplers() -> list[Any]:
    """ComfyUI's own choices."""
    import comfy.samplers

    known = comfy.samplers.KSampler
    return [
        node_input(
            io.Combo, "sampler_name", options=list(known.SAMPLERS), default="euler", tooltip="ComfyUI's sampler."
        ),
        node_input(
            io.Combo, "scheduler", options=list(known.SCHEDULERS), default="normal", tooltip="ComfyUI's noise levels."
        ),
    ]


NODES = [AttentionGuidance, BackgroundLock, AttentionSampler, AttentionMap]
