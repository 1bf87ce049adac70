"""Generators in ComfyUI: where their files are, training them, applying them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.host.training_state import state_path
from ...engine.io.comfy_files import check_one_source, file_stem, files_mark, input_folder
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ...engine.io.curves import strip
from ...engine.io.safe_write import check_output, kept_if_done, only_one, reserved
from ...engine.region.unchanged import why_unchanged
from ..generator.apply import apply_generator
from ..generator.files import FOLDER, StyleGenerator, load_generator, save_generator
from ..generator.pictures import PictureBatch, PictureFiles, Pictures
from ..generator.run import distill
from ..pictures import curves
from ..settings import DistillSettings
from .sms import with_fake

KIND = "regionstyle_generators"  # folder below models/


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


class AppliedBatch(NamedTuple):
    """image `[B,H,W,3]`, the mask `[B,H,W]` it was blended with, and what was not changed and why ("": nothing)."""

    image: Tensor
    mask: Tensor
    warning: str


def apply_to_batch(
    generator: StyleGenerator, image: Tensor, mask: Tensor | None, feather: int, tile: int
) -> AppliedBatch:
    """An IMAGE of any size in the generator's style."""
    images = images_of(image)
    masks = None if mask is None else masks_of(mask, images)
    stylized, blended = apply_generator(generator, images, ComfyHost(), mask=masks, feather=feather, tile=tile)
    return AppliedBatch(image_of(stylized), blended, why_unchanged(images, stylized, masks))


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
    settings: DistillSettings, name: str, *, resume: bool,
) -> TrainedGenerator:  # fmt: skip
    """Train a generator on the experts attached to the MODEL, and save it in models/regionstyle_generators.

    name: "" for the style's words. An existing file is never replaced: the new one gets a number. A cancelled training
    keeps its state, and resume takes it up again. RegionStyleError for a name that is no file name, a state that would
    be lost or is of another training, and whatever training refuses.
    """
    name = file_stem(name or style, KIND)
    state = state_path(f"{name}.generator.pt")
    check_output(_folder() / f"{name}.safetensors", name="name")
    with only_one(state.with_suffix(".lock"), f"a training of {name!r}"):
        return _train_and_save(model, clip, vae, pictures, caption, style, strength, settings, name, state, resume)


def _train_and_save(
    model: Any, clip: Any, vae: Any, pictures: Pictures, caption: str, style: str, strength: float,
    settings: DistillSettings, name: str, state: Path, resume: bool,
) -> TrainedGenerator:  # fmt: skip
    if state.is_file() and not resume:
        got = f"a training of {name!r} that was stopped ({state})"
        raise wrong_input("name", got, "no unfinished training of that name", "Switch resume on, or change the name.")
    predictor, gates, fake = with_fake(model, clip, vae, strength, settings.sms.seed)
    distilled = distill(predictor, pictures, caption, style, gates, fake, settings, state=state)
    with kept_if_done(reserved(_numbered_paths(name))) as file:
        save_generator(distilled.generator, file)
    state.unlink(missing_ok=True)
    frames, losses = (
        image_of(picture[None].float()) for picture in (strip(distilled.frames), curves(distilled.history))
    )
    unreadable = len(getattr(pictures, "unreadable", ()))
    left_out = f", {unreadable} unreadable" if unreadable else ""
    notice = f"{settings.total} iterations, {len(pictures)} pictures{left_out}: {file.name}"
    return TrainedGenerator(distilled.generator, file.name, frames, losses, notice)


def pictures_of(image: Tensor | None, folder: str, strict: bool) -> Pictures:
    """The connected IMAGE, or the pictures of a folder inside ComfyUI's input folder and of its subfolders.

    RegionStyleError for both, and for neither.
    """
    check_one_source(image, folder)
    if image is not None:
        return PictureBatch(images_of(image))
    return PictureFiles.below(input_folder(folder), strict=strict)


def folder_mark(folder: str) -> str:
    """Names, sizes and times of the pictures and captions of a folder; "" without one (training says what is wrong)."""
    try:
        files = PictureFiles.below(input_folder(folder)).paths if folder.strip() else []
    except RegionStyleError:
        return ""
    beside = [file.with_suffix(".txt") for file in files]
    return files_mark([*files, *(file for file in beside if file.is_file())])


def _numbered_paths(name: str) -> Iterator[Path]:
    """The names a generator's file may have, numbered as ComfyUI numbers pictures."""
    return (_folder() / (f"{name}-{i}.safetensors" if i > 1 else f"{name}.safetensors") for i in count(1))


def _folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_folder_paths(KIND)[0])
