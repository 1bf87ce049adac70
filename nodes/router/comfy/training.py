"""Training a style expert on ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_files import check_one_source, file_stem, files_mark, input_folder
from ...engine.io.comfy_tensors import images_of
from ...engine.lora.init import init_lora
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.training.comfy import SUBFOLDER, TrainedOnComfy, delivered, place_of_training, trainable_on_comfy
from ...engine.training.run import Trained
from ...engine.training.settings import TrainSettings
from ...engine.training.state import StateFile, facts_of
from ..settings import CropSettings
from ..training.examples import encode_examples
from ..training.run import train_style
from ..training.style_pictures import Cropping, StylePicture, check_style, pictures_of_batch, pictures_of_folder


@dataclass(frozen=True)
class Pictures:
    """The pictures of a style, and which parts of them are trained on."""

    pictures: Sequence[StylePicture]
    crops: CropSettings = CropSettings()

    def cropping(self, native: int) -> Cropping:
        return Cropping(self.crops.resolution or native, self.crops.crop, flip=self.crops.flip)


def pictures_for(image: Tensor | None, folder: str, captions: str) -> list[StylePicture]:
    """The pictures of a batch with a caption per line, or those of a folder inside ComfyUI's input folder.

    RegionStyleError for both or none, a folder elsewhere, and captions beside a folder, where they are files.
    """
    check_one_source(image, folder)
    if image is not None:
        # the node's tensors come from inference mode; what is trained on must not
        return pictures_of_batch(images_of(image), captions.splitlines() if captions.strip() else [])
    if captions.strip():
        remedy = "Write the caption of a.png into a.txt beside it."
        raise wrong_input("captions", "text beside a folder", "nothing", remedy)
    return pictures_of_folder(input_folder(folder))


def folder_mark(name: str) -> str:
    """Names, sizes and times of the files in an input folder; "" without one (training says what is wrong)."""
    try:
        files = sorted(file for file in input_folder(name).iterdir() if file.is_file())
    except RegionStyleError:
        return ""
    return files_mark(files)


def train_on_comfy(
    model: Any, clip: Any, vae: Any, pictures: Pictures, style: str, name: str, settings: TrainSettings, *,
    resume: bool,
) -> TrainedOnComfy:  # fmt: skip
    """Train an expert and save it among ComfyUI's LoRAs. The MODEL given stays as it is.

    name: "" for the style's words. RegionStyleError for a name that is no file name, a state that would be lost or is
    of another training, and whatever training refuses.
    """
    style, name = check_style(style), file_stem(name or style, f"loras/{SUBFOLDER}")
    with place_of_training(name, resume) as state:
        plain = ComfyPredictor(model, clip, vae, ComfyHost())
        cropping = pictures.cropping(plain.native_size)
        # Before the expert is attached: what is loaded here is loaded in inference mode.
        examples = encode_examples(plain, pictures.pictures, style, cropping, settings.seed)
        facts = facts_of(settings, examples.mark, style=style, **vars(cropping))
        trained = _train(model, clip, vae, examples, style, name, settings, StateFile(state, facts), resume)
        notice = f"{len(trained.losses)} steps, {len(pictures.pictures)} pictures"
        return delivered(model, trained, name, "training", notice)


def _train(
    model: Any, clip: Any, vae: Any, examples: Any, style: str, name: str, settings: TrainSettings, state: StateFile,
    resume: bool,
) -> Trained:  # fmt: skip
    drawn: dict[str, Any] = {"rank": settings.rank, "layers": settings.layers, "seed": settings.seed}
    trainable, weights = trainable_on_comfy(
        model, name, lambda network, free: init_lora(network, free, style, **drawn)
    )  # fmt: skip
    predictor = ComfyPredictor(trainable, clip, vae, ComfyHost())
    return train_style(predictor, weights, examples, settings, state, resume=resume)
