"""Prompts through transformers' text encoders; how a family combines them is said in its file in `families`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input


@dataclass(frozen=True, eq=False)
class Encoded:
    """What one encoder makes of the prompts; last and penultimate `[B,M,D]`, pooled `[B,P]` (None for T5)."""

    last: Tensor
    penultimate: Tensor
    pooled: Tensor | None
    ids: list[list[int]]
    pieces: list[list[str]]
    valid: Tensor


def encode_with(
    names: str, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str], t5_limit: int = 0
) -> list[Encoded]:
    """Every encoder's answer.

    names: "A, B and C", the encoders in their order; the last one is T5, reading so many tokens, where t5_limit is
    given, the others are CLIP. RegionStyleError for another number of encoders or tokenizers.
    """
    count = names.count(",") + names.count(" and ") + 1
    if len(encoders) != count or len(tokenizers) != count:
        got = f"{len(encoders)} text encoders and {len(tokenizers)} tokenizers"
        raise wrong_input("text_encoder, tokenizer", got, f"{count} of each: {names}", "Give tuples, in this order.")
    limits = [None] * (count - 1) + [t5_limit or None]
    return [
        _clip(encoder, tokenizer, texts) if limit is None else _t5(encoder, tokenizer, texts, limit)
        for encoder, tokenizer, limit in zip(encoders, tokenizers, limits, strict=True)
    ]


def pooled_of(clip: Encoded) -> Tensor:
    """The pooled output `[B,P]`. RegionStyleError for an encoder without one."""
    if clip.pooled is None:
        raise wrong_input("text_encoder", "an encoder without a pooled output", "CLIP", "Give the encoders in order.")
    return clip.pooled


def _clip(encoder: Any, tokenizer: Any, texts: list[str]) -> Encoded:
    """CLIPTextModel, with or without projection, padded to its number of positions (77)."""
    limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    ids, lengths = _tokens(tokenizer, texts, limit, marks=2)
    output = encoder(ids.to(encoder.device), output_hidden_states=True)
    pooled = getattr(output, "text_embeds", None)
    position = torch.arange(limit)
    valid = (position > 0) & (position < lengths[:, None] - 1)
    return _encoded(output, output.pooler_output if pooled is None else pooled, tokenizer, ids, valid)


def _t5(encoder: Any, tokenizer: Any, texts: list[str], limit: int) -> Encoded:
    """T5EncoderModel, padded to `limit` tokens as diffusers' pipelines do; an end token, but no start token."""
    limit = min(limit, tokenizer.model_max_length)
    ids, lengths = _tokens(tokenizer, texts, limit, marks=1)
    output = encoder(ids.to(encoder.device), output_hidden_states=True)
    return _encoded(output, None, tokenizer, ids, torch.arange(limit) < lengths[:, None] - 1)


def _encoded(output: Any, pooled: Tensor | None, tokenizer: Any, ids: Tensor, valid: Tensor) -> Encoded:
    rows = ids.tolist()
    pieces = [tokenizer.convert_ids_to_tokens(row) for row in rows]
    last = output.last_hidden_state
    return Encoded(last, output.hidden_states[-2], pooled, rows, pieces, valid.to(last.device))


def _tokens(tokenizer: Any, texts: list[str], limit: int, marks: int) -> tuple[Tensor, Tensor]:
    """Padded ids `[B,limit]` and lengths `[B]`, `marks` start and end tokens included.

    RegionStyleError for a prompt that has more words than fit.
    """
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False).input_ids]
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            shown = text if len(text) <= 60 else text[:57] + "..."
            got, accepts = f"{length - marks} tokens ({shown!r})", f"at most {limit - marks}"
            raise wrong_input("prompt", got, accepts, "Shorten it; this text encoder reads no more.")
    padded = tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt").input_ids
    return padded, torch.tensor(lengths)
