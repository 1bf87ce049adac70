"""Regions over ComfyUI's objects: tensors in, tensors out, files in ComfyUI's own folders."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.adapters.comfy import without_experts
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import counted
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import check_numbers, image_of, images_of, masks_of
from ...engine.io.safe_write import kept_if_done, reserved
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.regions import Regions, region_of
from ..finders.attention_finder import FoundRegions, regions_by_attention
from ..language.prompt import parse_regions
from ..language.written_words import check_words
from ..masks.composition import combine_masks, join, with_mask
from ..masks.overlay import labelled_overlay
from ..masks.refine import refine_mask
from ..masks.region_files import load_regions, save_regions
from ..settings import AttentionSettings, RefineSettings

LONGEST_NAME = 200  # bytes of a file's or folder's name; file systems allow 255, with what is added to it


def batch_of_masks(mask: Tensor, name: str = "mask") -> Tensor:
    """A MASK as masks `[B,H,W]` in 0..1 on the CPU; RegionStyleError for another shape."""
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
    if mask.ndim != 3 or 0 in mask.shape:
        raise wrong_input(name, f"shape {list(mask.shape)}", "a MASK [B,H,W]", "Connect a mask output.")
    check_numbers(mask, name)
    return mask.float().clamp(0, 1).cpu()


def _fitted(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """A MASK at another size, one or one per picture."""
    return masks_of(mask, torch.empty(1, 1, 1, 1).expand(batch, 3, height, width)).cpu()


def check_pictures(regions: Regions, images: Tensor) -> None:
    """RegionStyleError when the regions belong to pictures of another size or number than `[B,3,H,W]`."""
    own, other = (regions.batch, regions.height, regions.width), (len(images), *images.shape[-2:])
    if own != tuple(other):
        accepts = f"regions of {other[0]} pictures of {other[2]} x {other[1]} pixels, as the image"
        got = f"{own[0]} of {own[2]} x {own[1]}"
        raise wrong_input("regions", got, accepts, "Make the regions from this image.")


def regions_from_mask(mask: Tensor, phrase: str, style: str, regions: Regions | None) -> Regions:
    """One region for every mask of a batch, after those that are there already."""
    if not phrase.strip():
        raise wrong_input("phrase", "nothing", "words for what the mask covers", "Type for example 'red star'.")
    check_words(phrase, "phrase")
    check_words(style, "style")
    masks = batch_of_masks(mask)
    masks = masks if regions is None else _fitted(mask, regions.batch, regions.height, regions.width)
    items = [
        region_of(phrase.strip(), covered, style=style.strip(), image=image)
        for image, covered in enumerate(counted(list(masks), ComfyHost(), "regions"))
    ]
    added = Regions(tuple(items), int(masks.shape[-2]), int(masks.shape[-1]), len(masks))
    return added if regions is None else join(regions, added)


def attention_regions(
    model: Any, clip: Any, vae: Any, image: Tensor, sentence: str, settings: AttentionSettings, strict: bool
) -> tuple[FoundRegions, str]:
    """The regions of a sentence in every image of a batch, seen with experts off, and what was understood of it."""
    instruction = parse_regions(sentence)
    predictor = ComfyPredictor(without_experts(model), clip, vae, ComfyHost())
    with predictor.loaded():
        found = regions_by_attention(predictor, images_of(image), instruction, settings)
    check_found(found.notice, strict)
    return found, str(instruction)


def check_found(notice: str, strict: bool) -> None:
    """RegionStyleError with the notice when something was not found and that is not allowed."""
    if notice and strict:
        raise RegionStyleError(f"sentence: {notice}. Use other words, lower the bias, or switch strict off.")


def refine_masks(mask: Tensor, settings: RefineSettings, image: Tensor | None) -> Tensor:
    """Every mask of a batch refined; the picture, or one per mask, is brought to the masks' size."""
    masks = batch_of_masks(mask)
    pictures = None if image is None else _pictures_for(image, masks)
    return torch.stack(
        [
            refine_mask(single, settings, None if pictures is None else pictures[index])
            for index, single in enumerate(counted(list(masks), ComfyHost(), "masks"))
        ]
    )


def _pictures_for(image: Tensor, masks: Tensor) -> list[Tensor]:
    images = images_of(image)
    if len(images) not in (1, len(masks)):
        accepts = f"one image or one per mask ({len(masks)})"
        raise wrong_input("image", f"{len(images)} images", accepts, "Connect the pictures the masks belong to.")
    images = torch.nn.functional.interpolate(images.float().cpu(), masks.shape[-2:], mode="bilinear", antialias=True)
    return [images[index % len(images)][None] for index in range(len(masks))]


def refine_regions(regions: Regions, settings: RefineSettings, image: Tensor | None) -> Regions:
    """Every region's mask refined by its own picture; one that becomes empty counts as not found."""
    pictures = None
    if image is not None:
        pictures = images_of(image).float().cpu()
        check_pictures(regions, pictures)
    masks = [
        refine_mask(region.mask.float().cpu(), settings, None if pictures is None else pictures[region.image][None])
        for region in counted(regions.items, ComfyHost(), "regions")
    ]
    return regions.with_items(with_mask(region, mask) for region, mask in zip(regions, masks, strict=True))


def combined(a: Tensor, b: Tensor | None, operation: str) -> Tensor:
    """`combine_masks` for two MASKs; b is brought to a's size, and one mask goes with a whole batch."""
    first = batch_of_masks(a, "a")
    if b is None:
        return combine_masks(first, None, operation)
    second = batch_of_masks(b, "b")
    count = max(len(first), len(second))
    if not {len(first), len(second)} <= {1, count}:
        raise wrong_input("b", f"{len(second)} masks", f"1 or {len(first)}, as a", "Use batches of one length.")
    second = _fitted(second, len(second), *first.shape[-2:])
    return combine_masks(first.expand(count, -1, -1), second.expand(count, -1, -1), operation)


def masks_and_words(regions: Regions, phrase: str) -> tuple[Tensor, Tensor, str, str]:
    """Union `[B,H,W]`, masks `[N,H,W]`, phrases and styles (a line each) of all regions, or of one phrase's."""
    chosen = regions.of_phrase(phrase.strip()) if phrase.strip() else regions
    masks = [region.mask.float().cpu() for region in chosen] or [torch.zeros(regions.height, regions.width)]
    words = ("\n".join(getattr(region, name) for region in chosen) for name in ("phrase", "style"))
    phrases, styles = words
    return chosen.union(), torch.stack(masks), phrases, styles


def preview(image: Tensor, regions: Regions) -> Tensor:
    """Every picture with its regions drawn in, as an IMAGE. Reports progress and can be cancelled at every region."""
    images = images_of(image)
    check_pictures(regions, images)
    host, drawn = ComfyHost(), []
    for index, picture in enumerate(images):
        own = regions.of_image(index)
        drawn.append(labelled_overlay(picture[None], own, host.progress(2 * len(own), "regions")))
    return image_of(torch.cat(drawn))


def _can_be_a_name(path: Path) -> bool:
    """Whether a disk can hold it; half a surrogate pair has no bytes in a file name."""
    try:
        return "\0" not in str(path) and all(len(os.fsencode(part)) <= LONGEST_NAME for part in path.parts)
    except UnicodeEncodeError:
        return False


def _inside(path: Path, folder: Path, name: str) -> Path:
    """A path that really lies in a folder; RegionStyleError for any other, and for one that no disk can hold."""
    if not _can_be_a_name(path):
        accepts = f"names of up to {LONGEST_NAME} bytes of whole characters, without null"
        raise wrong_input(name, f"{str(path)!r}, {len(str(path))} characters", accepts, "Use a shorter, plain name.")
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise wrong_input(name, repr(str(path)), f"a place inside {folder}", "Use a name without '..' and drive.")
    return resolved


def save_to_output(regions: Regions, prefix: str) -> str:
    """Write regions under ComfyUI's output folder with the next free number; the file's name for Load Regions."""
    import folder_paths

    output = Path(folder_paths.get_output_directory())
    if not prefix.strip():
        raise wrong_input("filename_prefix", "nothing", "the beginning of a file name", "Type for example 'regions'.")
    _inside(output / prefix, output, "filename_prefix")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, str(output))
    names = (f"{name}_{number:05}_.json" for number in count(counter))
    places = (_inside(Path(folder) / each, output, "filename_prefix") for each in names)
    with kept_if_done(reserved(places, "filename_prefix")) as path:
        save_regions(regions, path, ComfyHost())
    return f"{Path(subfolder, path.name).as_posix()} [output]"


def regions_path(file: str) -> Path:
    """Where a regions file lies: in ComfyUI's input folder, or with " [output]" or " [temp]" behind its name there."""
    import folder_paths

    name, folder = folder_paths.annotated_filepath(file.strip())
    base = Path(folder or folder_paths.get_input_directory())
    if not name:
        raise wrong_input("file", "nothing", "the name of a regions file", "Type what Save Regions wrote.")
    return _inside(base / name, base, "file")


def load_from_folders(file: str) -> Regions:
    """The regions of a file in ComfyUI's folders."""
    return load_regions(regions_path(file), ComfyHost())


def file_fingerprint(file: str | None) -> str:
    """Changes when the file does, so that it is read again; a linked name is not known here."""
    try:
        path = regions_path(file) if file else None
    except RegionStyleError:
        return ""
    return f"{path}:{path.stat().st_mtime_ns}" if path is not None and path.is_file() else ""
