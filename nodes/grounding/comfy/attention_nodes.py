"""ComfyUI nodes that find things in pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_range, node_input, node_output, node_schema


class AttentionMask(io.ComfyNode):
    """A mask for a phrase, from the model's own attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleAttentionMask",
            display_name="Find by Attention",
            category="RegionStyle",
            description="Finds the thing a phrase names with the model's own cross-attention, without another network. "
            "A phrase that is not found gives an empty mask and a notice, or an error when strict.",
            search_aliases=["text2mask", "text to mask", "clipseg", "phrase mask", "attention map", "grounding"],
            inputs=[*model_inputs(), *_phrase_inputs(), *search_inputs()],
            outputs=[
                node_output(io.Mask, "mask", tooltip="1 inside the thing, 0 elsewhere, soft edge; one per image."),
                node_output(io.Image, "attention", tooltip="The attention laid over the picture: yellow is high."),
                node_output(
                    io.Float, "score", tooltip="Mean probability inside the mask of the first image; 0: not found."
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
        phrase: str,
        caption: str = "",
        bias: float = 0.0,
        draws: int = 2,
        seed: int = 0,
        strict: bool = False,
    ) -> io.NodeOutput:
        from .attention import find_in_batch

        check_range(bias, -10, 10, "bias")
        check_range(draws, 1, 16, "draws")
        found = find_in_batch(model, clip, vae, image, phrase, caption, bias, int(draws), seed, strict)
        return io.NodeOutput(found.masks, found.pictures, found.score, ui=ui.PreviewText(found.notice))


def model_inputs() -> list[Any]:
    """The sockets every node that looks with a model has."""
    return [
        node_input(io.Model, "model", tooltip="The denoiser that looks for the thing: SD1.5 class (eps or v)."),
        node_input(io.Clip, "clip", tooltip="The model's text encoder."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(io.Image, "image", tooltip="The picture; any size. It is looked at once, at the model's own size."),
    ]


def _phrase_inputs() -> list[Any]:
    return [
        node_input(
            io.String, "phrase", default="red star", tooltip="Words for the thing, as they stand in the caption."
        ),
        node_input(
            io.String,
            "caption",
            default="",
            tooltip="A sentence with the phrase in it. Empty: 'a PHRASE'. Naming "
            "what else is there helps to tell things apart.",
        ),
    ]


def search_inputs() -> list[Any]:
    """How attention looks, for every node that finds by it."""
    return [
        node_input(
            io.Float,
            "bias",
            default=0.0,
            min=-10.0,
            max=10.0,
            step=0.1,
            tooltip="Moves the threshold, which is "
            "chosen by Otsu's method: higher gives a smaller mask, lower a larger one. In log-odds.",
            advanced=True,
        ),
        node_input(
            io.Int,
            "draws",
            default=2,
            min=1,
            max=16,
            tooltip="Noise draws per noise level that are averaged. More is steadier and slower.",
            advanced=True,
        ),
        node_input(io.Int, "seed", default=0, min=0, max=2**32 - 1, tooltip="Seed of the noise.", advanced=True),
        node_input(
            io.Boolean,
            "strict",
            default=False,
            tooltip="On: a phrase that is not found stops the workflow with an "
            "error. Off: it gives an empty mask and a notice.",
            advanced=True,
        ),
    ]


NODES = [AttentionMask]
