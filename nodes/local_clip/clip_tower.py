"""CLIP's image tower as `transformers` keeps its layers, with no more work than its embedding needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def class_token(tower: Any, pixels: Tensor) -> Tensor:
    """What `tower(pixels).pooler_output` is, `[N,D]`; tower: a CLIP's `vision_model` in evaluation mode.

    Only the class token leaves the tower, so the last layer is computed for that one: of ViT-B/32's work a fifteenth,
    forwards and backwards.
    """
    x = tower.pre_layrnorm(tower.embeddings(pixels))
    *layers, last = tower.encoder.layers
    for layer in layers:
        x = _encoded(layer, x, x.shape[1])
    pooled: Tensor = tower.post_layernorm(_encoded(last, x, 1)[:, 0])
    return pooled


def _encoded(layer: Any, x: Tensor, tokens: int) -> Tensor:
    """The first so many tokens of one layer's output, `[N,tokens,D]`; x `[N,T,D]`."""
    attention, seen = layer.self_attn, layer.layer_norm1(x)

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    queries, keys, values = attention.q_proj(seen[:, :tokens]), attention.k_proj(seen), attention.v_proj(seen)
    mixed = F.scaled_dot_product_attention(heads(queries), heads(keys), heads(values))
    x = x[:, :tokens] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    encoded: Tensor = x + layer.mlp(layer.layer_norm2(x))
    return encoded
