"""Three noise predictors on one loaded network: the rows of one batch, told apart by the experts' gates.

The batch holds one block of pictures per role. In the blocks of the style predictor the style's experts act as they
are attached, in those of the fake predictor the fresh LoRA acts, in those of the plain model nobody does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from ..engine.adapters.gates import Gate, Gates, RegionGate
from ..engine.errors import wrong_input
from ..engine.predictor.base import NoisePredictor, Text
from .fake import NAME


@dataclass(frozen=True, eq=False)
class Role:
    """One block of the batch. who: "style", "fake" or "plain"; source: it looks at the source, not at the result."""

    who: str
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
    alike: dict[tuple[int, ...], list[int]] = {}
    for at, role in enumerate(roles):
        alike.setdefault(tuple(role.text.states.shape[1:]), []).append(at)

    seen: dict[int, Tensor] = {}
    for group in alike.values():
        made = _predict(predictor, [roles[at] for at in group], result, source, times, style)
        seen.update(zip(group, made, strict=True))
    return [seen[at] for at in range(len(roles))]


def _predict(
    predictor: NoisePredictor, roles: Sequence[Role], result: Tensor, source: Tensor, times: Tensor,
    style: Mapping[str, Gate],
) -> list[Tensor]:  # fmt: skip
    count = len(result)
    x = torch.cat([source if role.source else result for role in roles])
    text = reduce(add, [role.text.repeat(count) for role in roles])
    gates = gates_of([role.who for role in roles], count, style)
    return list(predictor.predict(x, times.repeat(len(roles)), text, gates).eps.chunk(len(roles)))


def gates_of(who: Sequence[str], count: int, style: Mapping[str, Gate]) -> Gates:
    """Gates for a batch of blocks of `count` pictures: the style's experts in its blocks, the fake one in its own."""
    on = torch.tensor([name == "style" for name in who]).float().repeat_interleave(count)
    fake = torch.tensor([name == "fake" for name in who]).float().repeat_interleave(count)
    return Gates({name: _in_rows(gate, on, count) for name, gate in style.items()} | {NAME: fake})


def _check_count(entries: int, count: int) -> None:
    if entries not in (1, count):
        raise wrong_input("gate", f"{entries} entries", f"1 or {count}", "Give one, or one per picture.")


def _in_rows(gate: Gate, on: Tensor, count: int) -> Gate:
    """A gate in those rows of the batch where `on` `[R]` is 1, off in the others."""
    if isinstance(gate, RegionGate):
        mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
        _check_count(len(mask), count)
        return replace(gate, mask=mask.repeat(len(on) // len(mask), 1, 1) * on.to(mask)[:, None, None])
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        return _in_rows(RegionGate(gate), on, count)
    value = torch.as_tensor(gate, dtype=torch.float32).reshape(-1)
    _check_count(len(value), count)
    return value.repeat(len(on) // len(value)) * on.to(value)
