"""Generators in ComfyUI: where their files are, training them, applying them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine.comfy_host import ComfyHost
from ..engine.comfy_tensors import image_of, images_of, masks_of
from ..engine.errors import RegionStyleError, wrong_input
from .comfy_sms import with_fake
from .generator_apply import apply_generator
from .generator_files import FOLDER, StyleGenerator, load_generator, save_generator
from .generator_pictures import PictureBatch, PictureFiles, Pictures
from .generator_run import distill
from .generator_training import DistillSettings
from .pictures import curves, strip

KIND = "regionstyle_generators"  # folder below models/
GO_ON, ANEW = "go on", "anew"
STARTS = [GO_ON, ANEW]
NAME = re.compile(r"\w[\w .-]*")


def register_folder() -> None:
    """Add models/regionstyle_generators and the generators of the pack to the folders ComfyUI knows."""
    import folder_paths

    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))
    folder_paths.add_model_folder_path(KIND, str(FOLDER))


def generator_choices() -> list[str]:
    """The generator files ComfyUI lists; never empty, since a combo without choices cannot be shown."""
    import folder_paths

    files = [name for name in folder_paths.get_filename_list(KIND) if name.lower().endswith(".safetensors")]
    return files or [f"put generators into models/{KIND}"]


def missing(file: str | None) -> bool | str:
    """True, or the error as a text: what ComfyUI asks before it runs a workflow. A linked name is not known yet."""
    try:
        if file is not None:
            ComfyHost().find(KIND, file)
    except RegionStyleError as error:
        return str(error)
    return True


def load(file: str) -> StyleGenerator:
    """The generator of a file, on the CPU until it is used."""
    return load_generator(ComfyHost().find(KIND, file))


def apply_to_batch(
    generator: StyleGenerator, image: Tensor, mask: Tensor | None, feather: int, tile: int
) -> tuple[Tensor, Tensor]:
    """An IMAGE of any size in the generator's style, and the MASK it was blended with."""
    images = images_of(image)
    masks = None if mask is None else masks_of(mask, images)
    made, blended = apply_generator(generator, images, ComfyHost(), mask=masks, feather=feather, tile=tile)
    return image_of(made), blended


@dataclass(frozen=True, eq=False)
class TrainedGenerator:
    """generator, its file's name as the loader lists it, two pictures `[1,H,W,3]` about the training, and a notice."""

    generator: StyleGenerator
    file: str
    strip: Tensor
    curves: Tensor
    notice: str


def train(
    model: Any, clip: Any, vae: Any, pictures: Pictures, caption: str, style: str, strength: float,
    settings: DistillSettings, name: str, start: str,
) -> TrainedGenerator:  # fmt: skip
    """Train a generator on the experts attached to the MODEL, and save it as models/regionstyle_generators/NAME.

    A cancelled training keeps its state beside the file, and start "go on" takes it up again.
    """
    file, state = _paths(name, start)
    predictor, gates, fake = with_fake(model, clip, vae, strength, settings.sms.seed)
    made = distill(predictor, pictures, caption, style, gates, fake, settings, state=state)
    save_generator(made.generator, file)
    state.unlink(missing_ok=True)
    shown = (image_of(picture[None].float()) for picture in (strip(made.frames), curves(made.history)))
    unreadable = len(getattr(pictures, "unreadable", ()))
    notice = f"{file.name}: {settings.total} iterations on {len(pictures)} pictures"
    return TrainedGenerator(made.generator, file.name, *shown, notice + f", {unreadable} unreadable" * bool(unreadable))


def pictures_of(images: Tensor | None, folder: str, strict: bool) -> Pictures:
    """The connected IMAGE, or the pictures of a folder: a full path, or one below ComfyUI's input folder.

    RegionStyleError for both, and for neither.
    """
    import folder_paths

    if (images is None) == (not folder.strip()):
        got = "neither" if images is None else "both"
        raise wrong_input("images, folder", got, "one of them", "Connect pictures, or name a folder with pictures.")
    if images is not None:
        return PictureBatch(images_of(images))
    return PictureFiles.below(Path(folder_paths.get_input_directory()) / folder.strip(), strict=strict)


def _paths(name: str, start: str) -> tuple[Path, Path]:
    """The files of generator and state. RegionStyleError for a name that is none, or taken."""
    import folder_paths

    if not NAME.fullmatch(name):
        accepts = "letters, digits, spaces, dots, - and _, with a letter or digit first"
        raise wrong_input("name", repr(name), accepts, "It becomes a file's name.")
    folder = Path(folder_paths.get_folder_paths(KIND)[0])
    file, state = folder / f"{name}.safetensors", folder / f"{name}.train.pt"
    if start == ANEW:
        state.unlink(missing_ok=True)
    elif file.is_file() and not state.is_file():
        remedy = f"Choose another name, or start '{ANEW}', which replaces it."
        raise wrong_input("name", f"{name!r}, which is a finished generator", "a new one to go on with", remedy)
    return file, state
