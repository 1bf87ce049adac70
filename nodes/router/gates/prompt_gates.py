"""Gates from words: the experts whose style a prompt names, or those whose style is near to its meaning.

RegionRoute chooses one expert by its name (its section on inference); nearness does it without training for words that
are no names. Both give weights g_e >= 0 that sum to 1, or all 0: then no expert acts. A gate that was trained is in
`learnt_gate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.adapters.gates import Gates
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.lora.style_key import style_key
from ...engine.predictor.base import Text
from ..experts import Experts, StackedExpert
from .learnt_gate import LearntGate

# Sentences whose mean embedding stands for a style, beside its bare words.
SENTENCES = ("{}", "a picture in {} style", "a {} artwork")


def named_in_prompt(experts: Experts, prompt: str) -> list[str]:
    """Names of the experts whose phrase or name stands in a prompt, in its order: whole words, longer phrases first."""
    text, expert_at = style_key(prompt), {}
    expert_of_phrase = {style_key(word): item.name for item in experts for word in (item.name, *item.phrases)}
    for phrase in sorted(expert_of_phrase, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text):
            expert_at[match.start()] = expert_of_phrase[phrase]
        text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", lambda m: " " * len(m[0]), text)
    return list(dict.fromkeys(name for _, name in sorted(expert_at.items())))


def hard_weights(experts: Experts, prompt: str) -> dict[str, float]:
    """The experts a prompt names in equal shares, the others 0."""
    named = named_in_prompt(experts, prompt)
    return {name: (1 / len(named) if name in named else 0.0) for name in experts.names}


def soft_weights(
    query: Tensor, prototypes: Tensor, *, top_k: int = 2, temperature: float = 0.05, floor: float = 0.0
) -> Tensor:
    """g = softmax over the top k of cos(query, prototype_e) / temperature; 0 elsewhere, and below the floor.

    query `[D]`, prototypes `[E,D]` -> `[E]`, sums to 1, or to 0 when no cosine reaches the floor (-1..1).
    RegionStyleError for k below 1 and a temperature that is not above 0.
    """
    if top_k < 1:
        raise wrong_input("top_k", top_k, "1 or more", "1 chooses the nearest style alone.")
    if not temperature > 0:
        raise wrong_input("temperature", temperature, "a number above 0", "0.05 is usual.")
    cosines = F.cosine_similarity(query[None].float(), prototypes.float(), dim=-1)
    near = torch.zeros_like(cosines, dtype=torch.bool)
    near[cosines.topk(min(top_k, len(cosines))).indices] = True
    near &= cosines >= floor
    if not bool(near.any()):
        return torch.zeros_like(cosines)
    return (cosines / temperature).masked_fill(~near, float("-inf")).softmax(0)


def embedding(text: Text) -> Tensor:
    """One vector per prompt, `[B,D]` of length 1: the encoder's pooled one, else the mean of its words' states."""
    if text.pooled is not None:
        return F.normalize(text.pooled.float(), dim=-1)
    words = text.valid.to(text.states.device)[..., None].float()
    return F.normalize((text.states.float() * words).sum(1) / words.sum(1).clamp_min(1), dim=-1)


def style_sentences(item: StackedExpert) -> list[str]:
    """The sentences whose mean embedding stands for an expert."""
    return [sentence.format(phrase) for phrase in item.phrases for sentence in SENTENCES]


def prototypes_of(embeddings: Sequence[Tensor]) -> Tensor:
    """Prototypes `[E,D]` from the embeddings `[n,D]` of each expert's sentences."""
    return torch.stack([F.normalize(sentences.mean(0), dim=-1) for sentences in embeddings])


def experts_of_gate(gate: LearntGate, experts: Experts) -> list[str]:
    """What a stack calls the experts of a learnt gate, in the gate's order; any of an expert's phrases fits.

    RegionStyleError unless every expert of the one has its own in the other: shares would go to nobody.
    """
    try:
        names = [experts.of_style(name).name for name in gate.experts]
    except RegionStyleError:
        names = []
    if len(set(names)) != len(gate.experts) or len(experts) != len(gate.experts):
        got, accepts = f"{len(experts)}: {experts.names}", f"the gate's {len(gate.experts)}: {list(gate.experts)}"
        remedy = "Stack one expert for each of these, or train a gate for your stack: regionstyle train gate."
        raise wrong_input("experts", got, accepts, remedy)
    return names


def weighted_gates(experts: Experts, weights: Mapping[str, float]) -> Gates:
    """Every expert everywhere, at its strength times its weight."""
    return Gates({item.name: item.strength * weights[item.name] for item in experts})
