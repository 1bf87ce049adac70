"""Deterministic sampling in (alpha, sigma) form, for networks of every prediction type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import wrong_input
from .base import NoisePredictor, Prediction, Text

if TYPE_CHECKING:
    from ..adapters.gates import Gates

Lock = Callable[[Tensor, float], Tensor]
# x, and a prompt other than the sampler's own -> the prediction with its negative prompt and cfg.
Predict = Callable[..., Prediction]
# (share of the steps done, x, t, predict) -> the prediction that the sampler goes on with.
Guide = Callable[[float, Tensor, float, Predict], Prediction]


def ddim(
    predictor: NoisePredictor,
    x: Tensor,
    times: Sequence[float],
    text: Text,
    *,
    negative: Text | None = None,
    cfg: float = 1.0,
    gate: Gates | None = None,
    on_step: Callable[[int, Prediction], None] | None = None,
    lock: Lock | None = None,
    guide: Guide | None = None,
) -> Tensor:
    """DDIM without noise (Song et al., arXiv:2010.02502, eta = 0): x `[B,C,h,w]` at times[0] brought to times[-1].

    times fall; 0 is the clean latent. With `negative` and cfg other than 1, classifier-free guidance in one batched
    call per step. on_step(index, prediction) is called before each update: progress, preview and cancel live there.
    lock(x, t) is called after each update and returns x with what must not change put back (`keep_outside`).
    guide(share, x, t, predict) makes each step's prediction, from predict(x) or predict(x, another prompt); share: of
    the steps, how many are done, 0 at the first.
    """
    _check_times(times)
    for index, (now, following) in enumerate(pairwise(times)):

        def predict(x: Tensor, other: Text | None = None, t: float = now) -> Prediction:
            return guided(predictor, x, t, other or text, negative, cfg, gate)

        prediction = predict(x) if guide is None else guide(index / (len(times) - 1), x, now, predict)
        if on_step is not None:
            on_step(index, prediction)
        x = step(predictor, prediction, following)
        x = x if lock is None else lock(x, following)
    return x


def step(predictor: NoisePredictor, prediction: Prediction, t: float) -> Tensor:
    """The latent at t on the straight path of a prediction: alpha * denoised + sigma * eps; at 0, denoised."""
    if t <= 0:
        return prediction.denoised
    return predictor.add_noise(prediction.denoised, prediction.eps, t)


def guided(
    predictor: NoisePredictor,
    x: Tensor,
    t: float,
    text: Text,
    negative: Text | None = None,
    cfg: float = 1.0,
    gate: Gates | None = None,
) -> Prediction:
    """A prediction with classifier-free guidance: negative + cfg * (positive - negative). cfg 1 needs one pass only."""
    if negative is None and cfg != 1:
        raise wrong_input("cfg", cfg, "1 when there is no negative prompt", "Give a negative prompt (it may be empty).")
    if negative is None or cfg == 1:
        return predictor.predict(x, t, text, gate)
    positive, other = predictor.predict_pair(x, t, text, negative, gate)
    return Prediction(
        other.eps + cfg * (positive.eps - other.eps),
        other.denoised + cfg * (positive.denoised - other.denoised),
    )


def partial_times(strength: float, steps: int) -> list[float]:
    """`steps` + 1 times falling evenly from `strength` (0 < strength <= 1: how much of the picture is redrawn) to 0."""
    if not 0 < strength <= 1:
        raise wrong_input("strength", strength, "more than 0, at most 1", "1 redraws everything, 0.5 keeps the layout.")
    if steps < 1:
        raise wrong_input("steps", steps, "1 or more", "20 to 30 are usual.")
    return [strength * (steps - index) / steps for index in range(steps + 1)]


def keep_outside(predictor: NoisePredictor, x0: Tensor, eps: Tensor, mask: Tensor) -> Lock:
    """A lock that holds the latent x0 where mask `[B or 1,1,h,w]` is 0, noised to the current time with eps."""
    if mask.ndim != 4 or mask.shape[-2:] != x0.shape[-2:]:
        accepts = f"[B or 1, 1, {x0.shape[-2]}, {x0.shape[-1]}]"
        raise wrong_input("mask", list(mask.shape), accepts, "Resize the mask to the latent's size.")

    def lock(x: Tensor, t: float) -> Tensor:
        kept = x0 if t <= 0 else predictor.add_noise(x0, eps, t)
        return torch.where(mask > 0, torch.lerp(kept, x, mask.to(x).expand_as(x)), kept)

    return lock


def _check_times(times: Sequence[float]) -> None:
    falling = all(0 <= later < earlier <= 1 for earlier, later in pairwise(times))
    if len(times) < 2 or not falling:
        shown = [round(float(t), 4) for t in times]
        raise wrong_input("times", shown, "two or more, falling, within 0..1", "Use partial_times.")
