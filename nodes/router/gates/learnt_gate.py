"""Learnt gate: one routing vector for the whole picture, read from the prompt, decides which experts act.

The global routing of InstructMoLE (arXiv:2512.21788): a perceiver whose single learnt query reads the words' states,
plus the pooled text, is the routing vector r; scores g = softmax(W r); the top k of them act, each by its score as it
is, not made to sum to 1. One choice for the whole picture: choices per token gave artefacts there. `balance_loss` keeps
experts from starving (Switch Transformers, arXiv:2101.03961, equation 4).

Gradients flow from the experts' gates into the module: give the weights' columns to `Gates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...engine.errors import wrong_input
from ...engine.predictor.base import Text

GATE_TYPE = "REGIONSTYLE_GATE"


@dataclass(frozen=True)
class GateShape:
    """Sizes of a gate. text, pooled: widths of the text encoder's states and of its pooled output (0: not read);
    width, heads, layers: of the perceiver; top_k: how many experts act at most."""

    text: int
    pooled: int = 0
    width: int = 64
    heads: int = 4
    layers: int = 2
    top_k: int = 2


@dataclass(frozen=True, eq=False)
class Routing:
    """What a gate says of B prompts: probabilities `[B,E]`, which sum to 1, and weights `[B,E]`: the same where an
    expert is among the top k, 0 elsewhere."""

    probabilities: Tensor
    weights: Tensor


class LearntGate(nn.Module):
    """From a prompt to the weights of experts, which it knows by name and in a fixed order."""

    def __init__(self, experts: Sequence[str], shape: GateShape, seed: int = 0) -> None:
        """RegionStyleError for no expert, two of one name, and sizes that do not fit each other."""
        super().__init__()
        self.experts, self.shape = tuple(experts), shape
        _check(self.experts, shape)
        self.words = nn.Linear(shape.text, shape.width)
        self.query = nn.Parameter(torch.empty(1, shape.width))
        self.reader = nn.ModuleList(_ReadingLayer(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.pooled = nn.Linear(shape.pooled, shape.width) if shape.pooled else None
        self.score = nn.Linear(shape.width, len(self.experts), bias=False)
        self._start(torch.Generator().manual_seed(seed))

    def _start(self, generator: torch.Generator) -> None:
        """Initial values from a seed alone, whatever torch's own generator is at: near to equal shares at first."""
        quiet = {"score.weight": 0.1, "to_out.weight": 0.0, "down.weight": 0.0}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    scale = next((value for end, value in quiet.items() if name.endswith(end)), 1.0)
                    parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator).mul_(scale)
                else:
                    parameter.fill_(float("norm" in name and name.endswith("weight")))

    def routing_vector(self, text: Text) -> Tensor:
        """The vector r of each prompt, `[B,width]`. RegionStyleError for text of other widths."""
        self._check_text(text)
        like = self.query
        words, valid = self.words(text.states.to(like)), text.valid.to(like.device)
        read = self.query.expand(len(words), 1, -1)
        for layer in self.reader:
            read = layer(read, words, valid)
        vector = self.norm(read[:, 0])
        return vector if self.pooled is None else vector + self.pooled(text.pooled.to(like))  # type: ignore[union-attr]

    def forward(self, text: Text, noise: torch.Generator | None = None) -> Routing:
        """Probabilities and weights of B prompts.

        noise: for training, adds normal noise of scale 1/E to the scores before the softmax, so that no expert is
        left out by accident.
        """
        scores = self.score(self.routing_vector(text))
        if noise is not None:
            scores = scores + torch.randn(scores.shape, generator=noise).to(scores) / len(self.experts)
        probabilities = scores.softmax(-1)
        chosen = probabilities.topk(min(self.shape.top_k, len(self.experts)), -1).indices
        weights = torch.zeros_like(probabilities).scatter(-1, chosen, probabilities.gather(-1, chosen))
        return Routing(probabilities, weights)

    def _check_text(self, text: Text) -> None:
        pooled = 0 if text.pooled is None else text.pooled.shape[-1]
        remedy = "Use the text encoder that the gate was trained with, or train one for this encoder."
        if text.states.shape[-1] != self.shape.text:
            got = f"states of width {text.states.shape[-1]}"
            raise wrong_input("text of the learnt gate", got, f"width {self.shape.text}", remedy)
        if self.shape.pooled and pooled != self.shape.pooled:
            got = f"a pooled output of width {pooled}" if pooled else "no pooled output"
            raise wrong_input("text of the learnt gate", got, f"one of width {self.shape.pooled}", remedy)


class _ReadingLayer(nn.Module):
    """One layer of the perceiver: the query attends to the words and to itself, then a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_words, self.norm_forward = (nn.LayerNorm(width) for _ in range(3))
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, query: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """query `[B,1,D]`, words `[B,M,D]`, valid bool `[B,M]` -> `[B,1,D]`."""
        normed_query = self.norm_query(query)
        # With the query itself among what is read, a prompt without any word is defined too.
        source = torch.cat([self.norm_words(words), normed_query], 1)
        readable = F.pad(valid, (0, 1), value=True)[:, None, None]
        q, k, v = (self._heads(part) for part in (self.to_q(normed_query), self.to_k(source), self.to_v(source)))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=readable)
        query = query + self.to_out(attended.transpose(1, 2).flatten(2))
        return query + self.down(F.gelu(self.up(self.norm_forward(query))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def balance_loss(routing: Routing) -> Tensor:
    """E * sum_e f_e P_e: f_e is expert e's share of all choices, P_e its mean probability.

    1 when both are spread evenly, E when one expert gets everything. Its gradient goes through P_e and lowers the
    experts that are chosen most. Usual coefficient: 0.1.
    """
    chosen = (routing.weights > 0).to(routing.probabilities)
    share = chosen.sum(0) / chosen.sum().clamp_min(1)
    return len(share) * (share.detach() * routing.probabilities.mean(0)).sum()


def checked_with_mode(gate: object, wanted: bool) -> None:
    """RegionStyleError for a gate that would not be read, a missing one, and what is no gate."""
    if gate is not None and not wanted:
        remedy = "Choose the mode learnt gate, or disconnect it."
        raise wrong_input("gate", "a learnt gate in another mode", "none", remedy)
    if wanted and not isinstance(gate, LearntGate):
        got = "nothing" if gate is None else type(gate).__name__
        raise wrong_input("gate", got, "a learnt gate", "Connect Load Learnt Gate, or choose another mode.")


def _check(experts: tuple[str, ...], shape: GateShape) -> None:
    if not experts or len(set(experts)) != len(experts):
        raise wrong_input("experts", list(experts) or "none", "one or more different names", "Correct the names.")
    sizes = {name: getattr(shape, name) for name in ("text", "width", "heads", "layers", "top_k")}
    low = [f"{name} {size}" for name, size in sizes.items() if size < 1]
    if low or shape.pooled < 0 or shape.width % shape.heads:
        accepts = "sizes of 1 or more (pooled 0 or more), and a width that the heads divide"
        raise wrong_input("shape of the learnt gate", shape, accepts, "Correct it.")
