"""Prompts through ComfyUI's CLIP object, with the tokens that were really encoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input
from ..families.registry import comfy_text_layout
from ..families.support import supported_text_encoders
from .base import Text

EMBEDDING = "<embedding>"


def encode_prompts(clip: Any, texts: list[str]) -> Text:
    """Encode prompts with ComfyUI's weight syntax. RegionStyleError when their lengths in tokens differ."""
    tokens = [clip.tokenize(text, return_word_ids=True) for text in texts]
    conds = [clip.encode_from_tokens_scheduled(_without_words(entry)) for entry in tokens]
    rows = [_row(clip.tokenizer, entry) for entry in tokens]
    lengths = [cond[0][0].shape[1] for cond in conds]
    if len(set(lengths)) != 1:
        raise wrong_input("prompts", f"lengths of {lengths} tokens", "equal lengths", "Encode them one by one.")
    for (ids, _, _), length in zip(rows, lengths, strict=True):
        if len(ids) != length:
            raise wrong_input("clip", f"{len(ids)} tokens for {length} vectors", "one vector per token",
                              f"Supported text encoders: {supported_text_encoders()}.")  # fmt: skip
    pooled = [cond[0][1].get("pooled_output") for cond in conds]
    return Text(
        torch.cat([cond[0][0] for cond in conds]),
        None if any(p is None for p in pooled) else torch.cat(pooled),
        [ids for ids, _, _ in rows],
        [pieces for _, pieces, _ in rows],
        torch.tensor([words for _, _, words in rows], dtype=torch.bool),
        conds,
        parts=_parts(tokens[0]),
    )


def _parts(tokens: dict[str, Any]) -> tuple[int, ...]:
    """How many tokens of each encoder lie along the token axis; empty for one encoder."""
    layout = comfy_text_layout(tuple(sorted(tokens))) or ()
    return tuple(sum(map(len, tokens[name])) for name in layout) if len(layout) > 1 else ()


def _without_words(tokens: dict[str, Any]) -> dict[str, Any]:
    """(token, weight, word) as the encoder wants it: (token, weight)."""
    return {name: [[entry[:2] for entry in chunk] for chunk in chunks] for name, chunks in tokens.items()}


def _row(tokenizer: Any, tokens: dict[str, Any]) -> tuple[list[int], list[str], list[bool]]:
    """Token ids, pieces and which are words, of the whole token axis of one prompt's conditioning."""
    layout = comfy_text_layout(tuple(sorted(tokens)))
    if layout is None:
        raise wrong_input("clip", f"text encoders {sorted(tokens)}", supported_text_encoders(), "Load another CLIP.")
    entries = [(name, entry) for name in layout for chunk in tokens[name] for entry in chunk]
    ids = [-1 if not isinstance(token, int) else token for _, (token, _, _) in entries]
    pieces = [_piece(_part(tokenizer, name), token) for name, (token, _, _) in entries]
    return ids, pieces, [word > 0 for _, (_, _, word) in entries]


def _part(tokenizer: Any, name: str) -> Any:
    """The tokenizer of one encoder: ComfyUI calls it `clip_l`, `t5xxl`, ..."""
    return getattr(tokenizer, f"clip_{name}", None) or getattr(tokenizer, name)


def _piece(tokenizer: Any, token: int | Tensor | Any) -> str:
    """A token as written; embeddings have no letters."""
    return tokenizer.inv_vocab[token] if isinstance(token, int) else EMBEDDING + "</w>"
