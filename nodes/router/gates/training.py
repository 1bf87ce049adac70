"""Teaching a gate from prompts alone: each example is a prompt and the expert it is for.

Minimises the cross-entropy of the gate's probabilities, plus the load-balance term (InstructMoLE, arXiv:2512.21788:
noise of scale 1/E on the scores, coefficient 0.1). Text states are computed once, so this takes seconds on a CPU.
Training through the experts, by what they paint, uses the same module and `balance_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.io.training_state import check_finite
from ...engine.predictor.base import Text
from ..settings import GateSettings
from .learnt_gate import GateShape, LearntGate, balance_loss

if TYPE_CHECKING:
    from ...engine.host.base import Host

Encode = Callable[[list[str]], Text]
AT_ONCE = 64  # prompts per call of the text encoder


@dataclass(frozen=True)
class GateExample:
    """A prompt and the name of the expert that it is for."""

    prompt: str
    expert: str


def train_gate(
    examples: Sequence[GateExample], encode: Encode, settings: GateSettings, host: Host
) -> tuple[LearntGate, list[float]]:
    """A gate for the experts that the examples name, in their order, and the loss of every step.

    Same seed, same gate. Can be cancelled at every step. RegionStyleError for no example.
    """
    if not examples:
        raise wrong_input("prompts", "none", "one or more", "Give several for every expert.")
    text = encoded([example.prompt for example in examples], encode)
    names = list(dict.fromkeys(example.expert for example in examples))
    targets = torch.tensor([names.index(example.expert) for example in examples])
    with torch.inference_mode(False), torch.enable_grad():
        text = _ordinary(text)
        gate = LearntGate(names, GateShape(text.states.shape[-1], top_k=settings.top_k), settings.seed)
        losses = _fit(gate, text, targets, settings, host)
    return gate.eval().requires_grad_(False), losses


def _fit(gate: LearntGate, text: Text, targets: Tensor, settings: GateSettings, host: Host) -> list[float]:
    random = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(gate.parameters(), settings.rate, weight_decay=1e-2)
    progress, losses = host.progress(settings.steps, "gate"), []
    for step in range(settings.steps):
        indices = torch.randint(len(targets), (min(settings.batch, len(targets)),), generator=random)
        loss = gate_loss(gate, prompts_at(text, indices), targets[indices], settings.balance, random)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        check_finite(gate.parameters(), losses[-1:], step + 1, lambda: "")
        progress.update(step + 1)
    return losses


def gate_loss(
    gate: LearntGate, text: Text, targets: Tensor, balance: float, noise: torch.Generator | None = None
) -> Tensor:
    """Cross-entropy with the experts `[B]` that prompts are for, plus `balance` times the load-balance term."""
    routing = gate(text, noise)
    return F.nll_loss(routing.probabilities.clamp_min(1e-12).log(), targets) + balance * balance_loss(routing)


def encoded(prompts: Sequence[str], encode: Encode) -> Text:
    """All prompts as one text without what follows their last word, on the CPU; without the encoder's own form."""
    texts = [encode(list(prompts[start : start + AT_ONCE])) for start in range(0, len(prompts), AT_ONCE)]
    states, valid = (torch.cat(parts).cpu() for parts in ([t.states.float() for t in texts], [t.valid for t in texts]))
    length = int(valid.any(0).nonzero().max()) + 1 if bool(valid.any()) else 1
    return Text(states[:, :length].contiguous(), None, [], [], valid[:, :length].contiguous())


def prompts_at(text: Text, indices: Tensor) -> Text:
    """Some prompts of a text, by number."""
    return replace(text, states=text.states[indices], valid=text.valid[indices])


def examples_of(text: str) -> list[GateExample]:
    """Examples written one per line as "expert: prompt". RegionStyleError naming the line that is not."""
    examples = []
    for number, line in enumerate(text.splitlines(), 1):
        expert, colon, prompt = (part.strip() for part in line.partition(":"))
        if line.strip() and not (expert and colon and prompt):
            remedy = "Write for example 'mosaic: a red star in mosaic style'."
            raise wrong_input("prompts", f"{line.strip()!r} in line {number}", "expert: prompt", remedy)
        examples += [GateExample(prompt, expert)] if line.strip() else []
    return examples


def _ordinary(text: Text) -> Text:
    """Tensors that were made in inference mode cannot take part in a backward pass."""
    return replace(text, states=text.states.clone(), valid=text.valid.clone())
