"""Prompts of which each region reads its own words: text tokens with owners, for one sequence of tokens.

Two ways. "own prompts": every routed style gets a prompt of its own, all of them stand one after the other behind the
base prompt, each region reads its own and the rest reads the base. The encoder sees each prompt alone, so no word can
reach another region's tokens. "own words": one prompt; the words of a style and of its things are read in their region
only. A text encoder mixes words into later tokens (CLIP: every later one), so this keeps them apart less well.

Which tokens a style owns also decides how strongly its expert acts on them in a joint attention
(see `engine/gates.py`). "shared" sets that alone, and lets every place read everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.adapters.gates import Gates, RegionGate
from ..engine.errors import RegionStyleError
from ..engine.predictor.base import Text
from ..engine.predictor.tokens import find_phrase
from .gates.region_gates import RoutedStyle


def own_prompts(routed: Sequence[RoutedStyle], lengths: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Owned tokens `[L]` of each expert, and the rest's, for a base prompt and one prompt per style, joined.

    lengths: tokens of the base prompt, then of every style's.
    """
    total, start = sum(lengths), lengths[0]
    owned = {}
    for style, length in zip(routed, lengths[1:], strict=True):
        owned[style.expert] = _span(total, start, length)
        start += length
    return owned, _span(total, 0, lengths[0])


def joined(texts: Sequence[Text]) -> Text:
    """The prompts' tokens one after the other as one prompt, pooled and extras those of the first (diffusers host)."""
    first = texts[0]
    return replace(
        first,
        states=torch.cat([text.states for text in texts], 1),
        ids=[[token for text in texts for token in text.ids[0]]],
        pieces=[[piece for text in texts for piece in text.pieces[0]]],
        valid=torch.cat([text.valid for text in texts], 1),
        native=None,
        parts=(),
    )


def each_its_own(gates: Gates, routed: Sequence[RoutedStyle], texts: Sequence[Text]) -> Gates:
    """Gates for the base prompt and one prompt per routed style, joined: each region reads its own."""
    owned, rest = own_prompts(routed, [text.states.shape[1] for text in texts])
    return apart(gates, owned, rest)


def own_words(routed: Sequence[RoutedStyle], text: Text) -> dict[str, Tensor]:
    """Owned tokens `[L]` of each expert in one prompt: its style's words, and those of its things that are there.

    RegionStyleError for a style the prompt does not name, and for a word of two styles.
    """
    owned = {}
    for style in routed:
        tokens = set(find_phrase(text, style.style))
        for thing in style.things:
            tokens |= _if_there(text, thing)
        owned[style.expert] = torch.zeros(text.valid.shape[1], dtype=torch.bool)
        owned[style.expert][sorted(tokens)] = True
    if bool((torch.stack(list(owned.values())).sum(0) > 1).any()):
        names = ", ".join(repr(style.style) for style in routed)
        raise RegionStyleError(f"prompt: {names} share words, expected words of their own. Use 'own prompts' instead.")
    return owned


def apart(gates: Gates, owned: Mapping[str, Tensor], rest: Tensor | None) -> Gates:
    """Gates whose regions own these tokens, and see only those they own and those that nobody owns.

    rest: the tokens for places outside all regions alone (base prompt); None: what nobody owns is read by all.
    """
    nobody = ~torch.stack([*owned.values(), *([] if rest is None else [rest])]).any(0)
    values = dict(with_owners(gates, owned).values)
    for name in owned:
        values[name] = replace(_region(values, name), visible_tokens=owned[name] | nobody)
    return replace(gates, values=values, rest_visible_tokens=nobody if rest is None else rest | nobody)


def with_owners(gates: Gates, owned: Mapping[str, Tensor]) -> Gates:
    """Gates whose regions own these tokens; every image token goes on seeing all of them."""
    values = dict(gates.values)
    for name, tokens in owned.items():
        values[name] = replace(_region(values, name), owned_tokens=tokens)
    return replace(gates, values=values)


def _region(values: Mapping[str, object], name: str) -> RegionGate:
    gate = values[name]
    assert isinstance(gate, RegionGate)  # only experts routed by regions own words
    return gate


def _span(total: int, start: int, length: int) -> Tensor:
    places = torch.arange(total)
    return (places >= start) & (places < start + length)


def _if_there(text: Text, thing: str) -> set[int]:
    try:
        return set(find_phrase(text, thing))
    except RegionStyleError:
        return set()
