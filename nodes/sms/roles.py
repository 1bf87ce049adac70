"""Three noise predictors on one loaded network: blocks of one batch, told apart by the experts' gates.

The batch holds one block of pictures per role. In the blocks of the style predictor the style's experts act as they
are attached, in those of the fake predictor the fresh LoRA acts, in those of the plain model nobody does. Where real
and fake have a base network of their own, there is one batch per network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor

from ..engine.adapters.gates import Gate, Gates, RegionGate
from ..engine.errors import wrong_input
from ..engine.predictor.base import NoisePredictor, Text
from .fake import NAME


@dataclass(frozen=True, eq=False)
class Role:
    """One block of the batch. who predicts; source: it looks at the source, not at the result."""

    who: Literal["style", "fake", "plain"]
    text: Text
    source: bool = False


def predict_roles(
    predictor: NoisePredictor, roles: Sequence[Role], result: Tensor, source: Tensor, times: Tensor,
    style: Mapping[str, Gate],
) -> list[Tensor]:  # fmt: skip
    """The noise each role sees, `[B,C,h,w]` each, in one batched call (several where memory is short).

    Roles whose texts differ in length (a caption of over 77 tokens beside the empty prompt) cannot share a call: there
    is one call per length. result, source: the noisy latents `[B,C,h,w]`; times `[B]` in 0..1; style: gates of the
    style's experts.
    """
    by_length: dict[tuple[int, ...], list[int]] = {}
    for index, role in enumerate(roles):
        by_length.setdefault(tuple(role.text.states.shape[1:]), []).append(index)

    noises: dict[int, Tensor] = {}
    for group in by_length.values():
        predicted = _predict(predictor, [roles[index] for index in group], result, source, times, style)
        noises.update(zip(group, predicted, strict=True))
    return [noises[index] for index in range(len(roles))]


def _predict(
    predictor: NoisePredictor, roles: Sequence[Role], result: Tensor, source: Tensor, times: Tensor,
    style: Mapping[str, Gate],
) -> list[Tensor]:  # fmt: skip
    count = len(result)
    latents = torch.cat([source if role.source else result for role in roles])
    text = reduce(add, [role.text.repeat(count) for role in roles])
    gates = gates_of([role.who for role in roles], count, style)
    return list(predictor.predict(latents, times.repeat(len(roles)), text, gates).eps.chunk(len(roles)))


def gates_of(who: Sequence[str], count: int, style: Mapping[str, Gate]) -> Gates:
    """Gates for a batch of blocks of `count` pictures: the style's experts in its blocks, the fake one in its own.

    RegionStyleError for a gate that is not one for all pictures or one each.
    """
    styled = torch.tensor([name == "style" for name in who]).float().repeat_interleave(count)
    fake = torch.tensor([name == "fake" for name in who]).float().repeat_interleave(count)
    # Only what a role needs is named: with a base network of its own, the experts are not all on one network.
    gates = {name: _in_blocks(gate, styled, count) for name, gate in style.items()} if "style" in who else {}
    return Gates(gates | ({NAME: fake} if "fake" in who else {}))


def _check_count(entries: int, count: int) -> None:
    if entries not in (1, count):
        raise wrong_input("gate", f"{entries} entries", f"1 or {count}", "Give one, or one per picture.")


def _in_blocks(gate: Gate, on: Tensor, count: int) -> Gate:
    """A gate in those entries of the batch where `on` `[B]` is 1, off in the others."""
    if isinstance(gate, RegionGate):
        mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
        _check_count(len(mask), count)
        return replace(gate, mask=mask.repeat(len(on) // len(mask), 1, 1) * on.to(mask)[:, None, None])
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        return _in_blocks(RegionGate(gate), on, count)
    value = torch.as_tensor(gate, dtype=torch.float32).reshape(-1)
    _check_count(len(value), count)
    return value.repeat(len(on) // len(value)) * on.to(value)
