"""ComfyUI node that trains a style expert from pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...engine.node_schema import node_input, node_schema
from ...engine.settings.checks import settings_from
from ...engine.settings.node import Node
from ...engine.settings.node_inputs import node_inputs
from ...engine.training.node_inputs import name_input, resume_input, trained_outputs
from ...engine.training.settings import TrainSettings
from ..settings import CropSettings


class TrainStyle(Node):
    """About ten pictures of a style to an expert on the MODEL, saved as a LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="RegionStyleTrainStyle",
            display_name="Train Style Expert",
            category="RegionStyle",
            description="Trains a LoRA on about ten pictures of a style, saves it in models/loras/regionstyle, and "
            "gives the model with it. A cancelled training is kept: run again with resume on.",
            search_aliases=["train lora", "style lora", "fine-tune", "dreambooth"],
            is_output_node=True,
            inputs=[*_what(), *_how(), *_details()],
            outputs=trained_outputs("One prompt and noise, drawn again and again while training."),
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
        captions: str,
        resume: bool,
        image: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        from .training import Pictures, pictures_for, train_on_comfy

        chosen, crops = settings_from(settings, TrainSettings, CropSettings)
        pictures = Pictures(pictures_for(image, folder, captions), crops)
        made = train_on_comfy(model, clip, vae, pictures, style, name, chosen, resume=resume)
        return io.NodeOutput(made.model, made.file, made.previews, made.curve, ui=cls.say(made.notice))

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **others: Any) -> Any:
        """Changes with the files of a folder: ComfyUI otherwise sees its name only."""
        from .training import folder_mark

        return folder_mark(folder)


def _what() -> list[Any]:
    return [
        node_input(
            io.Model,
            "model",
            tooltip="The denoiser to train for: SD1.5, SD2 or SDXL; not quantised. LoRAs and experts on it act during "
            "training. It stays as it is.",
        ),
        node_input(io.Clip, "clip", tooltip="The model's text encoder; it is not trained."),
        node_input(io.Vae, "vae", tooltip="The model's autoencoder."),
        node_input(
            io.Image,
            "image",
            optional=True,
            tooltip="The pictures as a batch; about ten of one style. Or name a folder instead.",
        ),
        node_input(
            io.String,
            "style",
            default="my style",
            tooltip="Words for the style; prompts with '... in WORDS style' will call it. Unusual words collide least.",
        ),
        name_input(),
        node_input(
            io.String,
            "folder",
            default="",
            tooltip="A folder of pictures inside ComfyUI's input folder; a.txt beside a.png is its caption. Empty: the "
            "pictures come from the image input.",
        ),
        node_input(
            io.String,
            "captions",
            default="",
            multiline=True,
            tooltip="For the image input: what each picture shows, one line per picture, or nothing at all. Say what "
            "is in the picture, not its style.",
        ),
    ]


def _how() -> list[Any]:
    return [
        *node_inputs(TrainSettings, "steps", "rate", "rank", "batch", "seed"),
        resume_input(),
    ]


def _details() -> list[Any]:
    crops = node_inputs(CropSettings, "resolution", "crop", "flip")
    return [*crops, *node_inputs(TrainSettings, "layers", "accumulate", "preview_every", "checkpointing")]


NODES = [TrainStyle]
