"""ComfyUI nodes of the style matching score."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_choice, check_range, node_input, node_output, node_schema

PRESET_NAMES = ["reference", "paper"]
SCHEDULES = ["narrowing", "uniform", "linear"]


class SmsStylize(io.ComfyNode):
    """Optimise a picture towards the attached style while its content stays."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleSmsStylize",
            display_name="SMS Stylize",
            category="RegionStyle",
            description="Optimises the picture itself, iteration by iteration, until the style expert takes it for one "
            "of its own, while a relevance map and the low frequencies hold its content (style matching score). Slower "
            "than Restyle Region, and keeps more. Without a mask the whole picture changes.",
            search_aliases=["style matching score", "style transfer", "distillation"],
            inputs=[*_pictures(), *_method(), *_details()],
            outputs=[
                node_output(
                    io.Image, "stylized_image", display_name="image", tooltip="The picture in the style; same size."
                ),
                node_output(
                    io.Mask,
                    "stylized_mask",
                    display_name="mask",
                    tooltip="The mask it was blended with: 0 where nothing changed; 1 everywhere without a mask.",
                ),
                node_output(io.Image, "strip", tooltip="How the first picture came about, from left to right."),
                node_output(io.Image, "curves", tooltip="The three losses over the iterations."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        caption: str,
        style: str,
        mask: Any = None,
        strength: float = 0.8,
        iterations: int = 500,
        content: float = 5e-4,
        guidance: float = 4.5,
        rate: float = 0.1,
        seed: int = 0,
        preset: str = "reference",
        schedule: str = "narrowing",
        relevance: bool = True,
        fake_rate: float = 1e-3,
        tolerance: float = 0.0,
        margin: float = 0.25,
        feather: int = 2,
    ) -> io.NodeOutput:
        from ..optimise import SmsSettings
        from ..presets import preset as preset_of
        from ..stylize import Framing
        from .sms import match_batch

        check_choice(schedule, SCHEDULES, "schedule")
        for name, value, low, high in (
            ("strength", strength, 0.01, 4),
            ("iterations", iterations, 2, 10000),
            ("content", content, 0, 1),
            ("guidance", guidance, 0, 100),
            ("rate", rate, 1e-5, 10),
            ("fake_rate", fake_rate, 0, 1),
            ("tolerance", tolerance, 0, 100),
            ("margin", margin, 0, 4),
            ("feather", feather, -256, 256),
        ):
            check_range(value, low, high, name)
        settings = SmsSettings(
            preset_of(preset), int(iterations), content, guidance, rate, fake_rate, relevance, schedule,  # type: ignore[arg-type]
            seed=int(seed), tolerance=tolerance,
        )  # fmt: skip
        framing = Framing(margin, int(feather))
        made = match_batch(model, clip, vae, image, mask, caption, style, strength, settings, framing)
        return io.NodeOutput(made.image, made.mask, made.strip, made.curves, ui=ui.PreviewText(made.notice))


def _pictures() -> list[Any]:
    return [
        node_input(io.Model, "model", tooltip="The denoiser with style experts attached (Attach Style Expert)."),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(
            io.Image, "image", tooltip="The picture; any size. The pictures of a batch are optimised side by side."
        ),
        node_input(
            io.String, "caption", default="", multiline=True, tooltip="What the picture shows. It may be empty."
        ),
        node_input(
            io.String,
            "style",
            default="watercolor",
            tooltip="The style in words, as the expert was trained on; Attach Style Expert gives it.",
        ),
        node_input(
            io.Mask,
            "mask",
            optional=True,
            tooltip="1 = stylise, 0 = keep bit for bit. Without a mask the whole picture changes, worked on at the "
            "model's native size (its longer side at most twice that) and enlarged back.",
        ),
    ]


def _method() -> list[Any]:
    return [
        node_input(
            io.Float,
            "strength",
            default=0.8,
            min=0.01,
            max=4.0,
            step=0.05,
            tooltip="Multiplies the strength that the experts are attached with.",
        ),
        node_input(
            io.Int,
            "iterations",
            default=500,
            min=2,
            max=10000,
            tooltip="Optimiser steps; 500 in the paper. Each costs about eight passes of the model.",
        ),
        node_input(
            io.Float,
            "content",
            default=5e-4,
            min=0.0,
            max=1.0,
            step=1e-4,
            round=False,
            tooltip="How much the low frequencies are held: more keeps more of the content, 0 lets go.",
        ),
        node_input(
            io.Float, "guidance", default=4.5, min=0.0, max=100.0, step=0.1, tooltip="Classifier-free guidance."
        ),
        node_input(
            io.Float,
            "rate",
            default=0.1,
            min=1e-5,
            max=10.0,
            step=0.01,
            round=False,
            tooltip="Learning rate of the picture's latent.",
        ),
        node_input(
            io.Int,
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=True,
            tooltip="Seed of timesteps and noise.",
        ),
    ]


def _details() -> list[Any]:
    return [
        node_input(
            io.Combo,
            "preset",
            options=PRESET_NAMES,
            default="reference",
            tooltip="'reference': the formulas of the published code; 'paper': those of the paper's text.",
            advanced=True,
        ),
        node_input(
            io.Combo,
            "schedule",
            options=SCHEDULES,
            default="narrowing",
            tooltip="Timesteps: 'narrowing' draws below a falling bound (the paper's), 'uniform' from the whole range, "
            "'linear' follows the bound itself.",
            advanced=True,
        ),
        node_input(
            io.Boolean,
            "relevance",
            default=True,
            tooltip="Change most where the words for the style change the model's mind (relevance map).",
            advanced=True,
        ),
        node_input(
            io.Float,
            "fake_rate",
            default=1e-3,
            min=0.0,
            max=1.0,
            step=1e-4,
            round=False,
            tooltip="Learning rate of the fake predictor, which follows the picture.",
            advanced=True,
        ),
        node_input(
            io.Float,
            "tolerance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.001,
            round=False,
            tooltip="Stop early when the style's pull has fallen below this; 0 never stops early.",
            advanced=True,
        ),
        node_input(
            io.Float,
            "margin",
            default=0.25,
            min=0.0,
            max=4.0,
            step=0.05,
            tooltip="Context around a masked region, as a share of its size.",
            advanced=True,
        ),
        node_input(
            io.Int,
            "feather",
            default=2,
            min=-256,
            max=256,
            tooltip="Seam in pixels; positive grows outwards, negative inwards.",
            advanced=True,
        ),
    ]


NODES = [SmsStylize]
