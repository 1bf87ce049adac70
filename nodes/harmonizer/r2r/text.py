"""The embedding of the empty prompt, R2R's only text: computed once, or read where it was stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from .networks import TEXT_LENGTH

FILE, KEY = "empty_prompt.safetensors", "empty_prompt"
BEGIN, END = 49406, 49407  # the last two of CLIP's vocabulary
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "max_position_embeddings": TEXT_LENGTH, "vocab_size": 49408, "hidden_act": "quick_gelu",
    "bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END,
}  # fmt: skip


def stored_prompt(path: Path) -> Tensor:
    """The embedding `[1,77,width]` of a file. RegionStyleError for one that holds something else."""
    from .weights import read_tensors

    prompt = read_tensors(path).get(KEY)
    if prompt is None or prompt.ndim != 3 or len(prompt) != 1 or not bool(prompt.isfinite().all()):
        got = f"{path.name} without it" if prompt is None else f"{path.name} with {list(prompt.shape)}"
        raise wrong_input("empty prompt", got, f"'{KEY}' [1,{TEXT_LENGTH},width]", "Delete it, or write it again.")
    return prompt


def prompt_of_folder(folder: Path) -> Tensor:
    """By the text encoder of a diffusers folder."""
    from transformers import CLIPTextModel

    return _embedded(CLIPTextModel.from_pretrained(folder, local_files_only=True))


def prompt_of_state(state: Mapping[str, Tensor], file: str) -> Tensor:
    """By the tensors of a CLIP ViT-L/14 text encoder, named without `text_model.`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from .weights import check_fit

    encoder = CLIPTextModel(CLIPTextConfig(**_CLIP_L))
    own = encoder.state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in own) else ""
    given = {prefix + name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    check_fit("text", {name: t for name, t in own.items() if not name.endswith("position_ids")}, given, file)
    encoder.load_state_dict(given, strict=False)
    return _embedded(encoder)


@torch.no_grad()
def _embedded(encoder: Any) -> Tensor:
    """The last hidden state after the final layer norm, float32, of the prompt's begin and nothing but its end.

    The two are the last of the vocabulary; the published text encoder's config names others.
    """
    ids = torch.full((1, encoder.config.max_position_embeddings), encoder.config.vocab_size - 1)
    ids[0, 0] = encoder.config.vocab_size - 2
    hidden: Tensor = encoder.eval().float()(ids).last_hidden_state
    return hidden.clone()
