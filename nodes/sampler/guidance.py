"""Guidance by attention at sampling time, for networks that were never taught where words belong.

Three forms (RegionRoute, arXiv:2602.19254, its losses used as guidance):

- gradient: z <- z - eta rms(z) grad L / rms(grad L), L the Focus and Cover losses of the words' maps at z, some times
  per step, while at most `end` of the steps are done; eta falls to 0 there;
- bias: the logits of words get strength * std * (2 m - 1), strength falling likewise (`engine.attention.bias`);
- composition: v = (1 - sum M_e) v_0 + sum M_e v_e, with one prediction per region's own prompt.

What is here knows no host: `LocalGuide` goes into `engine.predictor.sampling.ddim`, `comfy/guidance.py` does the same
inside ComfyUI's samplers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..engine.attention.bias import AttentionBias
from ..engine.attention.supervision import AttentionLoss, Supervision
from ..engine.errors import wrong_input
from ..engine.families.base import BIAS, COMPOSITION, GRADIENT, ModelFamily
from ..engine.families.registry import family_of
from ..engine.families.support import supported_guidance
from ..engine.predictor.base import NoisePredictor, Prediction, Text
from ..engine.predictor.sampling import Predict
from ..engine.region.regions import Regions
from .settings import GuidanceSettings
from .targets import Targets, area_masks, targets_of, words_of


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What a step's attention looked like: share of the steps done before it, losses, and one map per phrase `[P,h,w]`
    of the first picture (log-odds or shares, the mean of the layers the losses look at)."""

    share: float
    focus: float
    cover: float
    total: float
    maps: Tensor


@dataclass
class Recorder:
    """The steps of one run, in order; on_record is called with each new one."""

    supervision: Supervision
    steps: list[StepRecord] = field(default_factory=list)
    layers: list[str] | None = None  # those that are looked at, once a pass has shown which grids there are
    on_record: Callable[[StepRecord], None] = lambda record: None

    def useful(self, maps: Mapping[str, Tensor], family: ModelFamily, latent: tuple[int, int]) -> dict[str, Tensor]:
        """The maps of the layers that say best what goes where: chosen in the first pass, and kept."""
        if self.layers is None:
            grids = {path: (int(seen.shape[-2]), int(seen.shape[-1])) for path, seen in maps.items()}
            self.layers = family.layout_layers(grids, latent)
        return {path: maps[path] for path in self.layers}

    def add(self, share: float, maps: Mapping[str, Tensor], family: ModelFamily, latent: tuple[int, int]) -> None:
        """Note the maps `[B,G,h,w]` of one pass; nothing where no phrase is supervised."""
        useful = self.useful(maps, family, latent)
        if not useful or not self.supervision.phrases:
            return
        with torch.no_grad():
            found = self.supervision.loss({path: seen.detach() for path, seen in useful.items()})
            seen = mean_map(useful, self.supervision)
        self.steps.append(StepRecord(share, float(found.focus), float(found.cover), float(found.total), seen))
        self.on_record(self.steps[-1])


def mean_map(maps: Mapping[str, Tensor], supervision: Supervision) -> Tensor:
    """One map per phrase `[P,h,w]` of the first picture, on the CPU: the mean of the layers on the finest of their
    grids."""
    size = max(((seen.shape[-2], seen.shape[-1]) for seen in maps.values()), key=lambda grid: grid[0] * grid[1])
    resized = [
        torch.nn.functional.interpolate(seen[:1].detach().float(), size, mode="bilinear", antialias=True)
        for seen in maps.values()
    ]
    mean = torch.stack(resized).mean(0)
    return supervision.of_phrases(mean)[0, : len(supervision.phrases)].cpu()


def falling(share: float, end: float) -> float:
    """1 at the first step, falling evenly to 0 when `end` of the steps are done."""
    return max(0.0, 1.0 - share / end) if end > 0 else 0.0


def descend(
    x: Tensor,
    loss_at: Callable[[Tensor], AttentionLoss],
    eta: float,
    settings: GuidanceSettings,
    check: Callable[[], None],
) -> Tensor:
    """The latent after the gradient steps of one sampling step; each picture's step is measured by its own size.

    loss_at(x) is called where gradients are allowed; check raises on cancel.
    """
    for _ in range(settings.repeats):
        check()
        x = x.detach().clone().requires_grad_()
        found = loss_at(x)
        if not found.counted or float(found.total.detach()) < settings.stop:
            break
        (gradient,) = torch.autograd.grad(found.total, x)
        x = x - eta * _rms(x) * gradient / (_rms(gradient) + 1e-8)
    return x.detach()


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each picture, shaped to multiply it."""
    return x.detach().square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt()


def blended(base: Tensor, parts: Sequence[Tensor], masks: Tensor) -> Tensor:
    """(1 - sum M_e) base + sum M_e part_e; base and parts `[B,C,h,w]`, masks `[B or 1,E,h,w]` summing to at most 1."""
    masks = masks.to(base)
    result = base * (1 - masks.sum(1, keepdim=True))
    for number, part in enumerate(parts):
        result = result + part.to(base) * masks[:, number : number + 1]
    return result


def check_form(form: str, network: torch.nn.Module | None, family: ModelFamily | None = None) -> ModelFamily:
    """The family of a network that can be guided in this form. RegionStyleError, with all that can, for another one."""
    try:
        family = family or family_of(network)  # type: ignore[arg-type]
    except ValueError:
        raise _unsupported(f"a {type(network).__name__}, of another family") from None
    if form not in family.guides:
        raise _unsupported(f"the {form} form for a model of the {family.name} class")
    return family


def _unsupported(got: str) -> Exception:
    remedy = "Choose a form that this model has, or the background lock alone."
    return wrong_input("guidance", got, f"one of these. {supported_guidance()}", remedy)


class LocalGuide:
    """Guidance of one run, for `ddim(..., guide=...)`; `recorder.steps` tells what attention looked like."""

    def __init__(
        self, predictor: NoisePredictor, text: Text, regions: Regions, settings: GuidanceSettings, *, off: bool = False
    ) -> None:
        """text: the prompt that is sampled with. off: nothing is guided, attention is only looked at.

        RegionStyleError for a network that has no such form, and a phrase that the prompt does not have.
        """
        self.family = check_form(settings.form, predictor.network)
        self.predictor, self.settings, self.off = predictor, settings, off
        self.targets: Targets = targets_of(text, regions, settings.words)
        self.supervision = self.targets.supervision(text, settings)
        self.recorder = Recorder(self.supervision)
        self._text, self._regions = text, regions
        self._own: list[Text] = []
        if settings.form == COMPOSITION and not off:
            prompts = dict.fromkeys(words_of(region) for region in regions)
            self._own = [predictor.encode_text([prompt]) for prompt in prompts]

    def __call__(self, share: float, x: Tensor, t: float, predict: Predict) -> Prediction:
        """See `engine.predictor.sampling.Guide`."""
        weight = 0.0 if self.off or not self.supervision.phrases else falling(share, self.settings.end)
        if weight and self.settings.form == GRADIENT:
            x = self._descended(x, t, weight)
        if weight and self.settings.form == BIAS:
            return self._biased(share, x, weight, predict)
        prediction = self._watched(share, x, predict)
        if weight and self.settings.form == COMPOSITION:
            return self._composed(x, prediction, predict)
        return prediction

    def _watched(self, share: float, x: Tensor, predict: Predict, bias: AttentionBias | None = None) -> Prediction:
        """A prediction whose attention is noted."""
        if not self.supervision.phrases:
            return predict(x)
        with self.supervision.tap(self.predictor, self.recorder.layers, bias=bias) as tap:
            prediction = predict(x)
        own = {path: seen[: len(x)] for path, seen in tap.maps.items()}  # the positive prompt's come first
        self.recorder.add(share, own, self.family, (x.shape[-2], x.shape[-1]))
        return prediction

    def _descended(self, x: Tensor, t: float, weight: float) -> Tensor:
        def loss_at(latent: Tensor) -> AttentionLoss:
            with self.supervision.tap(self.predictor, self.recorder.layers) as tap:
                self.predictor.predict(latent, t, self._text)
            return self.supervision.loss(self.recorder.useful(tap.maps, self.family, (x.shape[-2], x.shape[-1])))

        with self.predictor.gradients():
            return descend(x, loss_at, self.settings.step * weight, self.settings, self.predictor.host.check)

    def _biased(self, share: float, x: Tensor, weight: float, predict: Predict) -> Prediction:
        with bias_of(self.predictor, self.supervision, self.settings.bias * weight) as bias:
            return self._watched(share, x, predict, bias)

    def _composed(self, x: Tensor, prediction: Prediction, predict: Predict) -> Prediction:
        parts = [predict(x, text) for text in self._own]
        masks = area_masks(self._regions, (x.shape[-2], x.shape[-1]))
        eps = blended(prediction.eps, [part.eps for part in parts], masks)
        return Prediction(eps, blended(prediction.denoised, [part.denoised for part in parts], masks))


def bias_of(target: object, supervision: Supervision, strength: float, **options: Tensor) -> AttentionBias:
    """The bias of the supervised phrases, on a predictor or network."""
    whole = supervision.with_kind("text")  # one group per phrase, and the words as support
    assert whole.valid is not None
    groups = whole.groups & whole.active[..., None]
    return AttentionBias(target, groups, whole.masks, strength, whole.valid, **options)
