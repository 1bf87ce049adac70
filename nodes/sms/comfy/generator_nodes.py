"""ComfyUI nodes of feed-forward SMS: train, load and apply generators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_output, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.settings.setting import override
from ...engine.settings.sockets import custom_socket
from ..generator.files import StyleGenerator
from ..presets import REFERENCE
from ..settings import GENERATOR_RATES, ApplySettings, DistillSettings, SmsSettings, StyleStrength

GENERATOR = custom_socket("REGIONSTYLE_GENERATOR", StyleGenerator)
CATEGORY = "RegionStyle/generators"
# Where teaching a network differs from optimising one picture.
GENERATOR_SETTINGS = {
    "iterations": override(default=DistillSettings.sms.iterations, help="How many after the warm-up; a picture each."),
    "balance": override(default=REFERENCE.balance, step=1e-5),
    "guidance": override(default=REFERENCE.guidance),
    "rate": override(
        default=GENERATOR_RATES["tiny"],
        high=1,
        step=1e-4,
        help="Learning rate of the generator; it falls along a cosine.",
    ),
    "seed": override(help="Seed of weights, pictures, timesteps and noise."),
    "fake_rate": override(help="Learning rate of the fake predictor, which follows the results."),
}


class SmsTrainGenerator(Node):
    """A style expert and photographs to a network that restyles in one pass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSmsTrainGenerator",
            display_name="SMS Train Generator",
            category=CATEGORY,
            description="Teaches a small network to paint the attached expert's style in one pass, at any size: the "
            "distillation of the style matching score. The pictures need no labels. A cancelled training can go on.",
            search_aliases=["style matching score", "distillation", "feed-forward", "style transfer"],
            inputs=[*_sources(), *_training(), *_details()],
            outputs=[
                node_output(GENERATOR, "generator", tooltip="The trained network; it goes to the device when used."),
                node_output(io.String, "file", tooltip="Its file's name, as SMS Load Generator lists it."),
                node_output(io.Image, "strip", tooltip="How it painted the first picture, from start to end."),
                node_output(io.Image, "curves", tooltip="The three losses over the iterations."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        style: str,
        name: str,
        folder: str,
        strength: float,
        resume: bool,
        caption: str,
        strict: bool,
        image: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        from .generator import pictures_of, train

        sms, distill = settings_from(settings, SmsSettings, DistillSettings)
        chosen, pictures = replace(distill, sms=sms), pictures_of(image, folder, strict)
        made = train(model, clip, vae, pictures, caption, style, strength, chosen, name, resume=resume)
        return io.NodeOutput(made.generator, made.file, made.strip, made.curves, ui=cls.say(made.notice))

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **others: Any) -> Any:
        """Changes with the files of a folder: ComfyUI otherwise sees its name only."""
        from .generator import folder_mark

        return folder_mark(folder)


class SmsLoadGenerator(Node):
    """A generator from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .generator import generator_choices

        return node_schema(
            node_id="RegionStyleSmsLoadGenerator",
            display_name="SMS Load Generator",
            category=CATEGORY,
            description="Loads a network that paints one style in one pass. Nothing is downloaded.",
            search_aliases=["watercolor", "style transfer", "feed-forward"],
            inputs=[
                node_input(
                    io.Combo,
                    "file",
                    options=generator_choices(),
                    tooltip="A .safetensors in models/regionstyle_generators. Those under tinyworld/ come with the "
                    "pack.",
                )
            ],
            outputs=[
                node_output(GENERATOR, "generator", tooltip="The network; it goes to the device when it is used."),
                node_output(io.String, "style", tooltip="The style it paints, in words."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: Any) -> str:
        """Changes with the file, of which ComfyUI sees the name only."""
        from ...engine.io.comfy_files import chosen_mark
        from .generator import KIND

        return chosen_mark(KIND, file)

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        from .generator import missing

        return missing(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .generator import load

        made = load(file)
        return io.NodeOutput(made, made.style)


class SmsApplyGenerator(Node):
    """A generator on pictures of any size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSmsApplyGenerator",
            display_name="SMS Apply Generator",
            category=CATEGORY,
            description="Paints pictures in a generator's style in one pass, at their full size: large ones in tiles "
            "that overlap by what the network sees, so there is no seam. Batches and frames of a video work alike.",
            search_aliases=["style transfer", "feed-forward", "tiled", "video"],
            inputs=[
                node_input(GENERATOR, "generator", tooltip="From SMS Load Generator or SMS Train Generator."),
                node_input(io.Image, "image", tooltip="The picture or batch; any size."),
                node_input(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="1 = restyle, 0 = keep bit for bit. Without a mask the whole picture changes.",
                ),
                *node_inputs(ApplySettings, "feather", "tile"),
            ],
            outputs=[
                node_output(
                    io.Image, "styled_image", display_name="image", tooltip="The picture in the style; same size."
                ),
                node_output(
                    io.Mask,
                    "styled_mask",
                    display_name="mask",
                    tooltip="The mask it was blended with: 0 where nothing changed; 1 everywhere without a mask.",
                ),
            ],
        )

    @classmethod
    def execute(cls, generator: Any, image: Any, mask: Any, feather: int, tile: int) -> io.NodeOutput:
        from .generator import apply_to_batch

        made = apply_to_batch(generator, image, mask, feather, tile)
        said = cls.say(f"painted in {generator.style}", warning=made.warning)
        return io.NodeOutput(made.image, made.mask, ui=said)


def _sources() -> list[Any]:
    return [
        node_input(io.Model, "model", tooltip="The denoiser with style experts attached (Attach Style Expert)."),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(
            io.String,
            "style",
            default="watercolor",
            tooltip="The style in words, as the expert was trained on; Attach Style Expert gives it.",
        ),
        node_input(
            io.Image,
            "image",
            optional=True,
            tooltip="Pictures to learn from, as a batch; they need no labels. Or name a folder instead.",
        ),
        node_input(
            io.String,
            "name",
            default="",
            tooltip="File name in models/regionstyle_generators; empty: the style's words. An existing file is never "
            "replaced: the new one gets a number.",
        ),
        node_input(
            io.String,
            "folder",
            default="",
            tooltip="A folder of pictures inside ComfyUI's input folder, subfolders too. Empty: the pictures come from "
            "the image input.",
        ),
    ]


def _training() -> list[Any]:
    resume = node_input(
        io.Boolean,
        "resume",
        default=False,
        tooltip="Go on where a cancelled training of this name stopped. All settings but the iterations must be the "
        "same.",
    )
    return [
        *node_inputs(DistillSettings, "architecture"),
        *_of_method("iterations"),
        *node_inputs(DistillSettings, "warm_up"),
        *node_inputs(StyleStrength, "strength"),
        *_of_method("balance", "guidance", "rate", "seed"),
        resume,
    ]


def _details() -> list[Any]:
    return [
        node_input(
            io.String,
            "caption",
            default="",
            advanced=True,
            tooltip="What pictures show that have no .txt file of their name beside them. It may be empty.",
        ),
        *_of_method("preset", "relevance", "fake_rate"),
        *node_inputs(DistillSettings, "copies", "size"),
        node_input(
            io.Boolean,
            "strict",
            default=False,
            advanced=True,
            tooltip="Stop at a file that cannot be read. Otherwise it is left out and named in the log.",
        ),
    ]


def _of_method(*names: str) -> list[Any]:
    own = {name: GENERATOR_SETTINGS[name] for name in names if name in GENERATOR_SETTINGS}
    return node_inputs(SmsSettings, *names, **own)


NODES = [SmsTrainGenerator, SmsLoadGenerator, SmsApplyGenerator]
