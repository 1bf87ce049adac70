"""ComfyUI node that trains a style expert from pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...engine.node_schema import check_choice, check_range, node_input, node_output, node_schema

LAYER_CHOICES = ["all", "attention"]


class TrainStyle(io.ComfyNode):
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
            outputs=[
                node_output(
                    io.Model, "trained_model", display_name="model", tooltip="The model with the new expert on it."
                ),
                node_output(
                    io.String, "file", tooltip="The LoRA file as Attach Style Expert and other loaders list it."
                ),
                node_output(
                    io.Image, "previews", tooltip="One prompt and noise, drawn again and again while training."
                ),
                node_output(io.Image, "curve", tooltip="The loss over the steps, smoothed."),
            ],
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
        captions: str = "",
        steps: int = 1000,
        learning_rate: float = 1e-4,
        rank: int = 8,
        batch_size: int = 4,
        seed: int = 0,
        resume: bool = False,
        resolution: int = 0,
        crop: float = 1.0,
        flip: bool = True,
        layers: str = "all",
        accumulate: int = 1,
        preview_every: int = 100,
        image: Any = None,
    ) -> io.NodeOutput:
        from ..training.style import TrainSettings
        from .training import Pictures, pictures_for, train_on_comfy

        settings = TrainSettings(
            steps=int(steps),
            batch=int(batch_size),
            accumulate=int(accumulate),
            rate=check_range(learning_rate, 1e-8, 1, "learning_rate"),
            rank=int(rank),
            layers=check_choice(layers, LAYER_CHOICES, "layers"),
            seed=int(seed),
            preview_every=int(preview_every),
        )
        pictures = Pictures(pictures_for(image, folder, captions), int(resolution), crop, flip)
        made = train_on_comfy(model, clip, vae, pictures, style, name, settings, resume=resume)
        return io.NodeOutput(made.model, made.file, made.previews, made.curve, ui=ui.PreviewText(made.notice))

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
        node_input(
            io.String,
            "name",
            default="",
            tooltip="File name of the expert in models/loras/regionstyle; empty: the style's words. An existing file "
            "is never replaced: the new one gets a number.",
        ),
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
        node_input(
            io.Int,
            "steps",
            default=1000,
            min=1,
            max=100000,
            tooltip="Training steps. More learns the style better, until pictures are learnt by heart; SD1.5 500 to "
            "2000.",
        ),
        node_input(
            io.Float,
            "learning_rate",
            default=1e-4,
            min=1e-7,
            max=1.0,
            step=1e-6,
            round=1e-7,
            tooltip="How far each step goes. Higher is faster and less stable. SD1.5 1e-4, tiny world 1e-3.",
        ),
        node_input(
            io.Int, "rank", default=8, min=1, max=256, tooltip="Capacity of the expert and size of its file; 4 to 32."
        ),
        node_input(
            io.Int,
            "batch_size",
            default=4,
            min=1,
            max=64,
            tooltip="Pictures per step. When memory runs out, fewer are taken at once; the result stays the same.",
        ),
        node_input(
            io.Int,
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=True,
            tooltip="Seed of the weights, crops, noise and order: the same seed gives the same expert.",
        ),
        node_input(
            io.Boolean,
            "resume",
            default=False,
            tooltip="Go on where a training of this name was stopped, or add steps to a finished one. Everything but "
            "steps must be as it was.",
        ),
    ]


def _details() -> list[Any]:
    return [
        node_input(
            io.Int,
            "resolution",
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip="Side of the square training pictures in pixels; 0: the model's own. Lower is faster.",
            advanced=True,
        ),
        node_input(
            io.Float,
            "crop",
            default=1.0,
            min=0.1,
            max=1.0,
            step=0.05,
            tooltip="Smallest crop, as a share of a picture's shorter side. 1 keeps the scale of strokes and texture.",
            advanced=True,
        ),
        node_input(
            io.Boolean,
            "flip",
            default=True,
            tooltip="Use mirrored pictures too. Off for styles with a left and a right, such as lettering.",
            advanced=True,
        ),
        node_input(
            io.Combo,
            "layers",
            options=LAYER_CHOICES,
            default="all",
            tooltip="Which layers learn: attention only is smaller; all learns texture better.",
            advanced=True,
        ),
        node_input(
            io.Int,
            "accumulate",
            default=1,
            min=1,
            max=64,
            tooltip="Take each batch in so many parts, one after the other: less memory, the same result.",
            advanced=True,
        ),
        node_input(
            io.Int,
            "preview_every",
            default=100,
            min=1,
            max=100000,
            tooltip="Steps between two previews; the state is saved at each.",
            advanced=True,
        ),
    ]


NODES = [TrainStyle]
