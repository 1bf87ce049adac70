"""Data sets of regional restyling: COCO, Pascal VOC and BIG with masks (RegionRoute), LEAST's pictures with prompts.

RegionRoute does not say which objects and styles it draws. Here: the largest object of every picture, and the styles
in turn; other styles can be given.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.errors import wrong_input
from ...engine.io.rle import mask_of_segmentation
from .samples import STYLES, Sample, instruction, need, need_samples, pictures_in, read_gray

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
VOID = 255  # of VOC's masks: border or unclear


def load_coco(root: Path, styles: Sequence[str] = STYLES, split: str = "val2017") -> list[Sample]:
    """`annotations/instances_SPLIT.json` and `SPLIT/*.jpg`: one sample per picture with an object."""
    place = need(root / "annotations" / f"instances_{split}.json", "COCO's annotations")
    data = json.loads(place.read_text(encoding="utf-8"))
    words = {c["id"]: c["name"] for c in data["categories"]}
    things: dict[int, list[Any]] = defaultdict(list)
    for annotation in data["annotations"]:
        if not annotation.get("iscrowd") and annotation["area"] > 0:
            things[annotation["image_id"]].append(annotation)
    images = [image for image in sorted(data["images"], key=lambda image: image["id"]) if things[image["id"]]]
    samples = []
    for index, image in enumerate(images):
        largest = max(things[image["id"]], key=lambda a: (a["area"], -a["id"]))
        mask = partial(mask_of_segmentation, largest["segmentation"], image["height"], image["width"])
        path = need(root / split / image["file_name"], "the pictures of the split")
        samples.append(_sample(path, mask, words[largest["category_id"]], styles[index % len(styles)]))
    return need_samples(samples, root, f"annotations/instances_{split}.json and {split}/")


def _sample(image: Path, mask: Callable[[], np.ndarray], phrase: str, style: str, name: str = "") -> Sample:
    return Sample(name or image.stem, image, mask, phrase, style, instruction(phrase, style))


def load_voc(root: Path, styles: Sequence[str] = STYLES, split: str = "val") -> list[Sample]:
    """`VOCdevkit/VOC2012` (or that folder itself): the pictures of ImageSets/Segmentation/SPLIT.txt."""
    base = root / "VOCdevkit" / "VOC2012" if (root / "VOCdevkit").is_dir() else root
    listed = need(base / "ImageSets" / "Segmentation" / f"{split}.txt", "Pascal VOC 2012's list of pictures")
    samples = []
    for index, name in enumerate(listed.read_text(encoding="utf-8").split()):
        objects = need(base / "SegmentationObject" / f"{name}.png", "VOC's object masks")
        classes = need(base / "SegmentationClass" / f"{name}.png", "VOC's class masks")
        number, word = _largest_voc_object(objects, classes)
        image = need(base / "JPEGImages" / f"{name}.jpg", "VOC's pictures")
        samples.append(_sample(image, partial(_voc_mask, objects, number), word, styles[index % len(styles)]))
    return need_samples(samples, base, f"names in ImageSets/Segmentation/{split}.txt")


def _indexed(path: Path) -> np.ndarray:
    from PIL import Image

    picture = Image.open(path)
    if picture.mode not in ("P", "L"):
        raise wrong_input("mask", f"{path.name} of mode {picture.mode}", "a palette picture", "Use VOC's own files.")
    return np.asarray(picture)


def _largest_voc_object(objects: Path, classes: Path) -> tuple[int, str]:
    """The object number with the most pixels, and its class word."""
    numbers, kinds = _indexed(objects), _indexed(classes)
    present, counts = np.unique(numbers[(numbers != 0) & (numbers != VOID)], return_counts=True)
    if not len(present):
        raise wrong_input("mask", f"no object in {objects.name}", "one or more", "Use VOC's own files.")
    number = int(present[counts.argmax()])
    kind = int(np.bincount(kinds[numbers == number]).argmax())
    if not 1 <= kind <= len(VOC_CLASSES):
        raise wrong_input("class mask", f"class {kind} in {classes.name}", "1 to 20", "Use VOC's own files.")
    word = VOC_CLASSES[kind - 1]
    return number, VOC_WORDS.get(word, word)


def _voc_mask(path: Path, number: int) -> np.ndarray:
    return (_indexed(path) == number).astype(np.float32)


def load_big(root: Path, styles: Sequence[str] = STYLES, split: str = "test") -> list[Sample]:
    """`SPLIT/NAME_im.jpg` with `SPLIT/NAME_gt.png` (or both in the folder itself). The set names no object in words."""
    folder = root / split if (root / split).is_dir() else root
    samples = []
    for index, image in enumerate(sorted(folder.glob("*_im.jpg"))):
        name = image.name.removesuffix("_im.jpg")
        truth = need(folder / f"{name}_gt.png", "the mask of every picture")
        mask = partial(_cut, truth)
        samples.append(_sample(image, mask, "object", styles[index % len(styles)], name))
    return need_samples(samples, folder, "NAME_im.jpg with NAME_gt.png")


def _cut(path: Path) -> np.ndarray:
    return (read_gray(path) > 0.5).astype(np.float32)


def load_least(root: Path) -> list[Sample]:
    """The published pictures (folder `dataset`, or the folder itself) with `prompts.json` beside them.

    The paper's ten prompts per picture are not published, so the file is the user's: {"file name": ["apply STYLE style
    to REGION in the image", ...]}. `masks/STEM_NUMBER.png` (the prompt's number from 0), where it is there, is the
    region; otherwise it is found by the method that is measured.
    """
    folder = root / "dataset" if (root / "dataset").is_dir() else root
    file = next((p for p in (root / "prompts.json", folder / "prompts.json") if p.is_file()), root / "prompts.json")
    prompts = json.loads(need(file, 'prompts.json with {"file name": ["prompt", ...]}').read_text(encoding="utf-8"))
    present = {path.name: path for path in pictures_in(folder)}
    if missing := sorted(set(prompts) - set(present)):
        raise wrong_input(
            "prompts.json", f"pictures that are not there: {missing[:4]}", "names of files", "Correct it."
        )
    samples = []
    for name in sorted(prompts):
        for number, prompt in enumerate(prompts[name]):
            mask = folder.parent / "masks" / f"{present[name].stem}_{number}.png"
            mask = mask if mask.is_file() else folder / "masks" / mask.name
            reader = partial(read_gray, mask) if mask.is_file() else None
            samples.append(Sample(f"{present[name].stem}_{number}", present[name], reader, prompt=prompt))
    return need_samples(samples, folder, "pictures with prompts")
