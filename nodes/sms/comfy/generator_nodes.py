"""ComfyUI nodes of feed-forward SMS: train, load and apply generators."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_choice, check_range, node_input, node_output, node_schema
from .sms_nodes import PRESET_NAMES

GENERATOR = io.Custom("REGIONSTYLE_GENERATOR")
CATEGORY = "RegionStyle/generators"
ARCHITECTURE_NAMES = ["tiny", "residual"]


class SmsTrainGenerator(io.ComfyNode):
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
        name: str = "",
        folder: str = "",
        architecture: str = "tiny",
        iterations: int = 2000,
        warm_up: int = 100,
        strength: float = 0.8,
        content: float = 5e-4,
        guidance: float = 4.5,
        rate: float = 1e-3,
        seed: int = 0,
        resume: bool = False,
        caption: str = "",
        preset: str = "reference",
        relevance: bool = True,
        fake_rate: float = 1e-3,
        copies: int = 4,
        size: int = 0,
        strict: bool = False,
        image: Any = None,
    ) -> io.NodeOutput:
        from ..generator.training import DistillSettings
        from ..presets import preset as preset_of
        from ..score import SmsSettings
        from .generator import pictures_of, train

        check_choice(architecture, ARCHITECTURE_NAMES, "architecture")
        for named, value, low, high in (
            ("iterations", iterations, 2, 1000000),
            ("warm_up", warm_up, 0, 100000),
            ("strength", strength, 0.01, 4),
            ("content", content, 0, 1),
            ("guidance", guidance, 0, 100),
            ("rate", rate, 1e-6, 1),
            ("fake_rate", fake_rate, 0, 1),
            ("copies", copies, 1, 64),
            ("size", size, 0, 4096),
        ):
            check_range(value, low, high, named)
        sms = SmsSettings(
            preset_of(preset), int(iterations), content, guidance, rate, fake_rate, relevance, seed=int(seed)
        )
        settings = DistillSettings(sms, architecture, int(copies), int(warm_up), int(size) or None)
        pictures = pictures_of(image, folder, strict)
        made = train(model, clip, vae, pictures, caption, style, strength, settings, name, resume=resume)
        return io.NodeOutput(made.generator, made.file, made.strip, made.curves, ui=ui.PreviewText(made.notice))

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **others: Any) -> Any:
        """Changes with the files of a folder: ComfyUI otherwise sees its name only."""
        from .generator import folder_mark

        return folder_mark(folder)


class SmsLoadGenerator(io.ComfyNode):
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
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        from .generator import missing

        return missing(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from .generator import load

        made = load(file)
        return io.NodeOutput(made, made.style)


class SmsApplyGenerator(io.ComfyNode):
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
                node_input(
                    io.Int,
                    "feather",
                    default=2,
                    min=-256,
                    max=256,
                    tooltip="Seam of the mask in pixels; positive grows outwards, negative inwards.",
                ),
                node_input(
                    io.Int,
                    "tile",
                    default=512,
                    min=64,
                    max=8192,
                    step=64,
                    tooltip="Side of a tile in pixels. Smaller ones need less memory; the result is the same. Halved "
                    "where memory runs out.",
                    advanced=True,
                ),
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
    def execute(cls, generator: Any, image: Any, mask: Any = None, feather: int = 2, tile: int = 512) -> io.NodeOutput:
        from .generator import apply_to_batch

        check_range(feather, -256, 256, "feather")
        check_range(tile, 64, 8192, "tile")
        return io.NodeOutput(*apply_to_batch(generator, image, mask, int(feather), int(tile)))


def _number(kind: Any, name: str, default: float, low: float, high: float, tooltip: str, **more: Any) -> Any:
    return node_input(kind, name, default=default, min=low, max=high, tooltip=tooltip, **more)


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
    return [
        node_input(
            io.Combo,
            "architecture",
            options=ARCHITECTURE_NAMES,
            default="tiny",
            tooltip="'tiny': 2 MB, quick; 'residual': the paper's size, 11 million parameters.",
        ),
        _number(io.Int, "iterations", 2000, 2, 1000000, "How many after the warm-up; a picture each."),
        _number(io.Int, "warm_up", 100, 0, 100000, "Iterations that only teach to give back the input."),
        _number(
            io.Float, "strength", 0.8, 0.01, 4.0, "Multiplies the strength that the experts are attached with.",
            step=0.05,
        ),
        _number(
            io.Float, "content", 5e-4, 0.0, 1.0,
            "How much the low frequencies are held: more keeps more of the content, 0 lets go.",
            step=1e-5, round=False,
        ),
        _number(io.Float, "guidance", 4.5, 0.0, 100.0, "Classifier-free guidance.", step=0.1),
        _number(
            io.Float, "rate", 1e-3, 1e-6, 1.0, "Learning rate of the generator; it falls along a cosine.",
            step=1e-4, round=False,
        ),
        _number(
            io.Int, "seed", 0, 0, 2**32 - 1, "Seed of weights, pictures, timesteps and noise.",
            control_after_generate=True,
        ),
        node_input(
            io.Boolean, "resume", default=False,
            tooltip="Go on where a cancelled training of this name stopped. All settings but the iterations must be "
            "the same.",
        ),
    ]  # fmt: skip


def _details() -> list[Any]:
    return [
        node_input(
            io.String, "caption", default="", advanced=True,
            tooltip="What pictures show that have no .txt file of their name beside them. It may be empty.",
        ),
        node_input(
            io.Combo, "preset", options=PRESET_NAMES, default="reference", advanced=True,
            tooltip="'reference': the formulas of the published code; 'paper': those of the paper's text.",
        ),
        node_input(
            io.Boolean, "relevance", default=True, advanced=True,
            tooltip="Change most where the words for the style change the model's mind (relevance map).",
        ),
        _number(
            io.Float, "fake_rate", 1e-3, 0.0, 1.0, "Learning rate of the fake predictor, which follows the results.",
            step=1e-4, round=False, advanced=True,
        ),
        _number(
            io.Int, "copies", 4, 1, 64, "Noisy versions of one picture per iteration; 4 in the paper.",
            advanced=True,
        ),
        _number(
            io.Int, "size", 0, 0, 4096, "Side of the crops in pixels; 0 takes the model's own.",
            step=8, advanced=True,
        ),
        node_input(
            io.Boolean, "strict", default=False, advanced=True,
            tooltip="Stop at a file that cannot be read. Otherwise it is left out and named in the log.",
        ),
    ]  # fmt: skip


NODES = [SmsTrainGenerator, SmsLoadGenerator, SmsApplyGenerator]
