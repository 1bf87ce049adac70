"""`regionstyle evaluate tinyworld`: the shipped networks measured on scenes and photographs they never saw.

Held-out photographs: "cat" (chelsea.png) and "coffee" (coffee.png) of scikit-image; held-out scenes have a random
stream of their own. Every number is a mean over the count that stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.host.base import Host, LocalHost
from ...engine.predictor.sampling import ddim, partial_times
from ...engine.region.region import Region
from ...metrics.pixels import equal_outside, masked_psnr, psnr
from ...tinyworld.backgrounds import HELD_OUT_PHOTOS, photo_crop
from ...tinyworld.bundled import load_bundled_expert, load_predictor
from ...tinyworld.classifier import Classifier, load_classifier
from ...tinyworld.clip import TinyClip, region_crop
from ...tinyworld.styles import STYLES, UNSTYLED
from ...tinyworld.world import COLORS, SHAPES, Scene, restyle_object, scene
from ..edit import EditSettings, edit
from ..local_model import tiny_settings
from ..painters.expert import ExpertPainter
from .attention import attention_iou
from .scenes import as_image

Numbers = dict[str, Any]
CROPS = 24  # of each held-out photograph


def evaluate(host: Host, styles: Sequence[str], scenes: int = 100) -> Numbers:
    """All measurements, by name; each loop reports its progress to the host."""
    predictor = load_predictor(LocalHost(host.device), [load_bundled_expert(style) for style in styles])
    clip, classifier = TinyClip(), load_classifier()
    with torch.no_grad(), predictor.loaded():
        return {
            "held_out_photographs": list(HELD_OUT_PHOTOS.values()),
            "scenes": scenes,
            "autoencoder": autoencoder(predictor, scenes, host),
            "clip": retrieval(clip, scenes, host),
            "classifier": classification(classifier, scenes, host),
            "generation": generation(predictor, classifier, host),
            "attention": attention_iou(predictor, held_out, scenes, host),
            "restyle": restyle(predictor, clip, styles, scenes, host),
        }


def held_out(number: int) -> Scene:
    """A held-out scene; every third has a photograph behind its objects."""
    return scene(number, split="held-out", background_kind=("cat", "coffee")[number % 2] if number % 3 == 0 else None)


def autoencoder(predictor: Any, count: int, host: Host) -> Numbers:
    """PSNR in dB after encoding and decoding, by held-out photograph and for scenes."""
    random, decibels = np.random.default_rng(7), {}
    progress = host.progress(len(HELD_OUT_PHOTOS) + 1, "autoencoder")
    for done, (word, filename) in enumerate(HELD_OUT_PHOTOS.items(), 1):
        crops = np.stack([photo_crop(filename, 128, random) for _ in range(CROPS)])
        decibels[f"psnr_{word}"] = _psnr_of(predictor, torch.from_numpy(crops).permute(0, 3, 1, 2))
        progress.update(done)
    images = torch.cat([as_image(held_out(i)) for i in range(min(count, 48))])
    decibels["psnr_scenes"] = _psnr_of(predictor, images)
    progress.update(len(decibels))
    return {**decibels, "crops_per_photograph": CROPS, "scenes": len(images)}


def _psnr_of(predictor: Any, images: Tensor) -> float:
    decoded = torch.cat([predictor.decode(predictor.encode(part)) for part in images.split(8)])
    return round(float(psnr(decoded.to(images), images).mean()), 2)


def retrieval(clip: TinyClip, count: int, host: Host) -> Numbers:
    """Share of captions whose own picture is the best of 32 held-out scenes with different captions."""
    right = total = 0
    starts = range(0, max(count, 96) // 32 * 32 * 2, 64)
    progress = host.progress(len(starts), "retrieval")
    for done, start in enumerate(starts, 1):
        chosen = {scene.caption: scene for scene in map(held_out, range(start, start + 64))}
        pairs = list(chosen.items())[:32]
        images = clip.embed_images(torch.cat([as_image(scene) for _, scene in pairs]))
        best = (clip.embed_texts([caption for caption, _ in pairs]) @ images.T).argmax(1)
        right += int((best == torch.arange(len(pairs))).sum())
        total += len(pairs)
        progress.update(done)
    return {"top1_of_32": round(right / total, 3), "captions": total}


def classification(classifier: Classifier, count: int, host: Host) -> Numbers:
    """Share of crops around held-out objects, each with one style or none, that are read rightly by property.

    Also of whole pictures of one object on a plain ground, exact ones: what the judge of generated pictures can do.
    """
    names, right = [*STYLES, UNSTYLED], []
    progress = host.progress(count, "classifier")
    for number in range(count):
        scene, style = held_out(number), names[number % len(names)]
        thing, index = scene.objects[-1], len(scene.objects) - 1
        picture = scene if style == UNSTYLED else restyle_object(scene, index, style)
        read_as = classifier.read(region_crop(as_image(picture), thing.box))[0]
        right.append((read_as["shape"] == thing.shape, read_as["color"] == thing.color, read_as["style"] == style))
        progress.update(number + 1)
    shares = np.mean(right, axis=0)
    read = {name: round(float(v), 3) for name, v in zip(("shape", "colour", "style"), shares, strict=True)}
    return read | {"crops": count} | _whole_pictures(classifier)


def _whole_pictures(classifier: Classifier, count: int = 64) -> Numbers:
    """Share of exact pictures of one object on a plain ground whose shape and colour are both read rightly."""
    scenes = [scene(number, split="held-out", count=1, background_kind="plain") for number in range(count)]
    readings = classifier.read(torch.cat([as_image(drawn) for drawn in scenes]))
    right = [
        (read_as["shape"], read_as["color"]) == (drawn.objects[0].shape, drawn.objects[0].color)
        for read_as, drawn in zip(readings, scenes, strict=True)
    ]
    return {"whole": round(float(np.mean(right)), 3), "whole_pictures": count}


def generation(predictor: Any, classifier: Classifier, host: Host, steps: int = 20, cfg: float = 4.0) -> Numbers:
    """Share of pictures generated from "a COLOUR SHAPE on plain background" that the classifier reads the same way."""
    words, batches = [(color, shape) for color in COLORS for shape in SHAPES], []
    progress = host.progress(len(words), "generation")
    for start in range(0, len(words), 16):
        batches.append(_generated(predictor, words[start : start + 16], steps, cfg))
        progress.update(min(start + 16, len(words)))
    images = torch.cat(batches)
    right = [
        (read_as["color"] == color, read_as["shape"] == shape)
        for read_as, (color, shape) in zip(classifier.read(images), words, strict=True)
    ]
    share = {
        "colour": np.mean([a for a, _ in right]),
        "shape": np.mean([b for _, b in right]),
        "both": np.mean([a and b for a, b in right]),
    }
    return {f"right_{key}": round(float(value), 3) for key, value in share.items()} | {"pictures": len(words)}


def _generated(predictor: Any, words: Sequence[tuple[str, str]], steps: int, cfg: float) -> Tensor:
    text = predictor.encode_text([f"a {color} {shape} on plain background" for color, shape in words])
    empty = predictor.encode_text([""])
    noise = torch.randn(len(words), 4, 16, 16, generator=torch.Generator().manual_seed(11)).to(predictor.host.device)
    latent = ddim(predictor, noise, partial_times(1.0, steps), text, negative=empty, cfg=cfg)
    return torch.cat([predictor.decode(part) for part in latent.split(8)]).cpu()


def restyle(predictor: Any, clip: TinyClip, styles: Sequence[str], count: int, host: Host) -> Numbers:
    """Restyling with the exact mask: style recognised (score 0.5 or more), and nearer to the truth than the input."""
    rows: dict[str, list[tuple[float, float, float, bool]]] = {style: [] for style in styles}
    progress = host.progress(count, "restyling")
    for number in range(count):
        style = styles[number % len(styles)]
        rows[style].append(_restyle_one(predictor, clip, held_out(number), style))
        progress.update(number + 1)
    return {
        **_summary([r for part in rows.values() for r in part]),
        "by_style": {style: _summary(part) for style, part in rows.items() if part},
    }


def _restyle_one(predictor: Any, clip: TinyClip, scene: Scene, style: str) -> tuple[float, float, float, bool]:
    image, index = as_image(scene), len(scene.objects) - 1
    thing = scene.objects[index]
    mask = torch.from_numpy(thing.mask)
    region = Region.of_mask(thing.phrase, mask, style=style)
    result = edit(image, [region], ExpertPainter(predictor, tiny_settings), EditSettings(seed=index, feather=0))
    truth = as_image(restyle_object(scene, index, style))
    score = float(clip.style_probabilities(region_crop(result.image, thing.box))[style])
    return (
        score,
        float(masked_psnr(image, truth, mask)),
        float(masked_psnr(result.image, truth, mask)),
        bool(equal_outside(result.image, image, result.mask[0])),
    )


def _summary(rows: Sequence[tuple[float, float, float, bool]]) -> Numbers:
    score, before, after, equal = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return {
        "scenes": len(rows),
        "recognised": round(float((score >= 0.5).mean()), 3),
        "nearer_to_truth": round(float((after > before).mean()), 3),
        "psnr_input": round(float(before.mean()), 2),
        "psnr_result": round(float(after.mean()), 2),
        "background_equal": bool(equal.all()),
    }
