"""Row "sms": the style matching score, its parts taken away one by one, and what it is compared with.

Whole held-out scenes in one style, whose exact filter is known. FID and ArtFID are taken over patches, against truly
filtered pictures of other scenes: a few whole pictures have no covariance to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...engine.adapters.gates import Gates
from ...metrics.distributions import art_fid, frechet_distance, gather_features
from ...metrics.measurement import SIGNED, UNIT, Measurement, check_tiny
from ...metrics.pixels import mse, psnr_of
from ...router.restyle import restyle_region
from ...sms.fake import with_fake
from ...sms.generator.apply import apply_generator
from ...sms.generator.files import bundled_generators, load_generator
from ...sms.score import SmsSettings
from ...sms.stylize import match_style
from ...tinyworld.bundled import load_bundled_expert, load_predictor
from ...tinyworld.styles import apply_style
from ...tinyworld.world import scene
from ..local_model import tiny_settings
from ..metric_networks import TINY_CLASSIFIER, tiny_embed
from .rows import RowContext, RowResult, row

STYLE = "watercolor"  # a generator of it ships with the pack
WORDS = f"a picture in {STYLE} style"
SCENES, ITERATIONS, QUICK_SCENES, QUICK_ITERATIONS = 3, 24, 2, 8  # per repetition; per picture
TRUE_SCENES = 24  # truly filtered ones for FID, of other numbers
FIRST_TRUE, APART = 50_000, 1000
PATCH, STEP = 64, 32  # pixels
STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.75)  # of partial noise, to choose from
SOURCE, LIMIT, LORA = "source, unchanged", "exact filter through the autoencoder", "style LoRA, partial noise"
FULL, NEITHER, FORWARD = "SMS", "SMS, neither", "SMS, feed-forward"
# The rate is that of a run of 500 iterations; guidance 1 costs two predictions less and suits the tiny world.
BASE = SmsSettings(guidance=1.0)
VARIANTS: dict[str, SmsSettings] = {
    FULL: BASE,
    "SMS, no spectrum": replace(BASE, balance=0.0),
    "SMS, no relevance": replace(BASE, relevance=False),
    NEITHER: replace(BASE, balance=0.0, relevance=False),
    "SMS, uniform t": replace(BASE, schedule="uniform"),
    "SMS, linear t": replace(BASE, schedule="linear"),
    "SMS, spatial MSE instead of spectrum": replace(BASE, content="latent"),
    "SMS, fixed cutoff": replace(BASE, content="fixed cutoff"),
    "SMS, lambda / 5": replace(BASE, balance=1e-4),
    "SMS, lambda x 5": replace(BASE, balance=2.5e-3),
}
# The paper's ablations, best first.
BY_CONTENT = (FULL, "SMS, uniform t", "SMS, linear t", "SMS, no relevance", "SMS, no spectrum", NEITHER)
BY_ARTFID = (FULL, "SMS, linear t", "SMS, no relevance", NEITHER, "SMS, no spectrum", "SMS, uniform t")
BETTER = {"PSNR to the exact filter": "higher", "style recognised-tiny": "higher"}


@dataclass(frozen=True)
class Pictures:
    """Scenes of one repetition and what the exact filter makes of them, `[B,3,H,W]`."""

    source: Tensor
    truth: Tensor
    seed: int


def pictures_of(first: int, count: int, seed: int) -> Pictures:
    """Held-out scenes by number."""
    arrays = [scene(number, split="held-out").image for number in range(first, first + count)]
    filtered = [apply_style(array, STYLE) for array in arrays]
    source, truth = (torch.stack([torch.from_numpy(a.copy()).permute(2, 0, 1) for a in s]) for s in (arrays, filtered))
    return Pictures(source, truth, seed)


def patches(images: Tensor) -> Tensor:
    """Overlapping squares `[N,3,64,64]` of pictures `[B,3,H,W]`."""
    cut = images.unfold(2, PATCH, STEP).unfold(3, PATCH, STEP)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def matched(predictor: Any, pictures: Pictures, settings: SmsSettings) -> Tensor:
    """SMS on all pictures of a repetition, each with its own timesteps and noise."""
    settings = replace(settings, seed=pictures.seed, preview_every=settings.iterations)
    with with_fake(predictor, pictures.seed) as (both, fake):
        return match_style(both, pictures.source, None, [""], WORDS, {STYLE: 1.0}, fake, settings).images


def redrawn(predictor: Any, pictures: Pictures, strength: float) -> Tensor:
    """The style's LoRA on the whole picture, noised in part and denoised."""
    settings = tiny_settings(STYLE, seed=pictures.seed, feather=0, strength=strength)

    def one(image: Tensor) -> Tensor:
        everything = torch.ones(image.shape[-2:])
        gate = lambda region, cut: Gates({STYLE: 1.0})  # noqa: E731
        return restyle_region(predictor, image[None], everything, WORDS, settings=settings, gate=gate).image

    with torch.no_grad(), predictor.loaded():
        return torch.cat([one(image) for image in pictures.source])


def through_autoencoder(predictor: Any, images: Tensor) -> Tensor:
    with torch.no_grad(), predictor.loaded():
        return predictor.decode(predictor.encode(images))


def painted(predictor: Any, pictures: Pictures) -> Tensor:
    """The shipped generator, in one pass."""
    generator = load_generator(bundled_generators()[STYLE])
    return apply_generator(generator, pictures.source, predictor.host)[0]


def measure(context: RowContext, pictures: Pictures, result: Tensor, true: Any) -> dict[str, Measurement]:
    """All numbers of one method in one repetition. true: features of the truly filtered patches `[N,D]`."""
    distance, count = context.networks.distance, len(result)
    lpips = float(distance(result, pictures.source).mean())
    fid = frechet_distance(gather_features(tiny_embed(context.classifier), [patches(result)]), true)
    read = [read_as["style"] for read_as in context.classifier.read(result)]
    tiny = TINY_CLASSIFIER
    measurements = [
        Measurement(check_tiny("LPIPS", distance.backbone), lpips, distance.backbone, SIGNED, count),
        Measurement(check_tiny("style recognised", tiny), read.count(STYLE) / count, tiny, UNIT, count),
        Measurement(check_tiny("FID", tiny), fid, tiny, UNIT, count),
        Measurement(check_tiny("ArtFID", tiny), art_fid(lpips, fid), f"{distance.backbone}; {tiny}", UNIT, count),
        Measurement("PSNR to the exact filter", float(psnr_of(mse(result, pictures.truth, UNIT)).mean()), "", UNIT,
                    count),
    ]  # fmt: skip
    return {measurement.name: measurement for measurement in measurements}


@row(
    "sms",
    title="Style matching score: parts and alternatives",
    paper="SMS, section 4: style of the LoRA with the content kept; its table of ablations (t, spectrum, relevance).",
)
def sms(context: RowContext) -> RowResult:
    """Every method on the same scenes and seeds."""
    count, iterations = (QUICK_SCENES, QUICK_ITERATIONS) if context.quick else (SCENES, ITERATIONS)
    rounds = [pictures_of(repetition * APART, count, seed) for repetition, seed in enumerate(context.seeds)]
    true = gather_features(tiny_embed(context.classifier), [patches(pictures_of(FIRST_TRUE, TRUE_SCENES, 0).truth)])
    predictor = load_predictor(context.inner_host(), [load_bundled_expert(STYLE)])
    variants = {name: replace(settings, iterations=iterations) for name, settings in VARIANTS.items()}
    values: dict[str, dict[str, list[Measurement]]] = {}
    shown: dict[str, Tensor] = {}

    def add(name: str, method: Callable[[Pictures], Tensor]) -> None:
        progress = context.host.progress(len(rounds), name)
        for repetition, pictures in enumerate(rounds):
            result = method(pictures).float().cpu().clamp(0, 1)
            for metric, measurement in measure(context, pictures, result, true).items():
                values.setdefault(name, {}).setdefault(metric, []).append(measurement)
            if repetition == 0:
                shown[name] = result
            progress.update(repetition + 1)

    add(SOURCE, lambda pictures: pictures.source)
    add(LIMIT, lambda pictures: through_autoencoder(predictor, pictures.truth))
    for name, settings in variants.items():
        add(name, lambda pictures, settings=settings: matched(predictor, pictures, settings))  # type: ignore[misc]
    strength = _as_far(context, predictor, rounds, values[FULL])
    add(f"{LORA} {strength:g}", lambda pictures: redrawn(predictor, pictures, strength))
    add(FORWARD, lambda pictures: painted(predictor, pictures))
    return RowResult(values, {}, _panels(rounds[0], shown), _remarks(rounds, count, iterations, strength, values),
                     4, BETTER)  # fmt: skip


def _as_far(
    context: RowContext, predictor: Any, rounds: Sequence[Pictures], full: Mapping[str, Sequence[Measurement]]
) -> float:
    """The strength of partial noise that moves the first repetition's pictures as far (LPIPS) as SMS does."""
    wanted = next(iter(full.values()))[0].value
    distance, first = context.networks.distance, rounds[0]
    moved = {s: float(distance(redrawn(predictor, first, s).float().cpu(), first.source).mean()) for s in STRENGTHS}
    return min(moved, key=lambda s: abs(moved[s] - wanted))


def _panels(pictures: Pictures, shown: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The first scene by every method, then its truth."""
    return [*((name, images[0]) for name, images in shown.items()), ("exact filter", pictures.truth[0])]


def _remarks(
    rounds: Sequence[Pictures], count: int, iterations: int, strength: float,
    values: Mapping[str, Mapping[str, Sequence[Measurement]]],
) -> list[str]:  # fmt: skip
    return [
        f"{len(rounds)} repetitions of {count} held-out scenes each in {STYLE}, {iterations} iterations (the paper: "
        "500), preset 'reference' without guidance, expert at strength 1. LPIPS is taken to the source, FID over "
        f"{PATCH} px patches to truly filtered pictures of {TRUE_SCENES} other scenes.",
        f"Partial noise has the strength of {', '.join(map(str, STRENGTHS))} that moves the pictures as far (LPIPS) as "
        f"SMS does: {strength:g}. The feed-forward row is the shipped generator, trained on photographs, on scenes it "
        "never saw.",
        *_order(values),
    ]  # fmt: skip


def _order(values: Mapping[str, Mapping[str, Sequence[Measurement]]]) -> list[str]:
    """The paper's orders beside those measured here, and why they may differ."""

    def here(metric: str) -> str:
        mean = {name: _mean(values[name][metric]) for name in BY_CONTENT}
        return ", ".join(f"{name} {mean[name]:.3g}" for name in sorted(mean, key=lambda name: mean[name]))

    return [
        f"Order by LPIPS (content kept), best first. The paper: {', '.join(BY_CONTENT)}. Here: {here('LPIPS-tiny')}.",
        f"Order by ArtFID, best first. The paper: {', '.join(BY_ARTFID)}. Here: {here('ArtFID-tiny')}.",
        "Schedules of t that lie within each other's spread do not contradict the paper's order: narrowing pays in the "
        "many iterations that are left at little noise, and here are few. With --quick there are so few that whatever "
        "holds the content holds the style back too, and the order is another.",
        "ArtFID is (LPIPS + 1)(FID + 1). LPIPS is 0.3 to 0.7 in the paper; here the exact filter moves a picture by a "
        "few hundredths, so that ArtFID is FID + 1 in effect. FID of the exact filter is not 0: other scenes.",
    ]


def _mean(parts: Sequence[Measurement]) -> float:
    return sum(part.value for part in parts) / len(parts)
