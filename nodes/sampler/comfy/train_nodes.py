"""ComfyUI node that teaches an expert where its style belongs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.training.node_inputs import name_input, resume_input, trained_outputs
from ..training.settings import ExpertTrainSettings
from .guidance_nodes import CATEGORY, REGIONS

USUAL = ("steps", "rate", "rank", "batch", "seed")
DETAILS = (
    "preset", "focus", "cover", "background", "attention", "tau", "kappa", "words", "watched", "layers", "accumulate",
    "optimizer", "preview_every", "band", "source", "validation", "checkpointing",
)  # fmt: skip


class TrainExpert(Node):
    """Pictures before and after, with masks, to an expert whose words know their place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleTrainExpert",
            display_name="Train Expert on Regions",
            category=CATEGORY,
            description="Trains a LoRA on pictures before and after one of their things was restyled, while the "
            "attention of the style's words is held to the thing's mask. Saved in models/loras/regionstyle. A "
            "cancelled training is kept: run again with resume on.",
            search_aliases=["regionroute", "train lora", "attention supervision", "regional lora", "masked training"],
            is_output_node=True,
            inputs=[*_what(), *_how(), *node_inputs(ExpertTrainSettings, *DETAILS), _held()],
            outputs=trained_outputs(
                "The first prompt from one noise, drawn again and again; with held-out pairs: before, wanted and made."
            ),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        name: str,
        manifest: str,
        prompts: str,
        resolution: int,
        resume: bool,
        image: Any,
        original: Any,
        regions: Any,
        validation_manifest: str,
        **settings: Any,
    ) -> io.NodeOutput:
        from .training import held_pairs, pairs_for, teach_on_comfy

        (chosen,) = settings_from(settings, ExpertTrainSettings)
        pairs = pairs_for(image, original, regions, manifest, prompts)
        held = held_pairs(validation_manifest)
        made = teach_on_comfy(model, clip, vae, pairs, name, chosen, resolution=resolution, resume=resume, held=held)
        said = cls.say(made.notice, warning=made.warning)
        return io.NodeOutput(made.model, made.file, made.previews, made.curve, ui=said)

    @classmethod
    def fingerprint_inputs(cls, manifest: str = "", validation_manifest: str = "", **others: Any) -> Any:
        """Changes with the manifests' files: ComfyUI otherwise sees their names only."""
        from .training import manifest_mark

        return manifest_mark(manifest) + manifest_mark(validation_manifest)


def _what() -> list[Any]:
    return [
        node_input(
            io.Model,
            "model",
            tooltip="The denoiser to train for; not quantised. LoRAs and experts on it act during training. It stays "
            "as it is.",
        ),
        node_input(io.Clip, "clip", tooltip="The model's text encoder; it is not trained."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(
            io.Image,
            "image",
            optional=True,
            tooltip="The pictures after, as a batch: things restyled, the rest as it was. Or name a manifest.",
        ),
        node_input(io.Image, "original", optional=True, tooltip="The same pictures before."),
        node_input(
            REGIONS,
            "regions",
            optional=True,
            tooltip="What was restyled in each picture, and in which style.",
        ),
        name_input(),
        node_input(
            io.String,
            "manifest",
            default="",
            tooltip="A JSON file of pairs inside ComfyUI's input folder, as 'regionstyle make pairs' writes it. Empty: "
            "the pairs come from the inputs image, original and regions.",
        ),
        node_input(
            io.String,
            "prompts",
            default="",
            multiline=True,
            tooltip="For the inputs: one line per picture that names thing and style, or nothing: then 'a THING in "
            "STYLE style'.",
        ),
    ]


def _how() -> list[Any]:
    return [
        *node_inputs(ExpertTrainSettings, *USUAL),
        node_input(
            io.Int,
            "resolution",
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip="Side of the square training pictures in pixels; 0: the model's own.",
        ),
        resume_input(),
    ]


def _held() -> Any:
    return node_input(
        io.String,
        "validation_manifest",
        default="",
        optional=True,
        tooltip="Instead of validation: a manifest inside ComfyUI's input folder whose pairs are held out.",
    )


NODES = [TrainExpert]
