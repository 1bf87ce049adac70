"""Tiny random text encoders of the families, and folders of whole models as `save_pretrained` writes them."""

from pathlib import Path

import torch
from family_models import FLUX_POOLED, SDXL_POOLED, WIDTH, diffusers_network, diffusers_scheduler


def clip_tower(width, projection, words):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32, vocab_size=len(words),
        max_position_embeddings=77, projection_dim=projection or 8, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval().requires_grad_(False)


def t5_tower(width, words):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=len(words))
    return T5EncoderModel(config).eval().requires_grad_(False)


def t5_words(length=16):
    """A SentencePiece-like tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>"] + ["\u2581" + w for w in ("a", "red", "cat", "on", "mat", "hair")] + ["dryer"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(at)) for at, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **marks)


def save_family_folder(family: str, folder: Path) -> Path:
    """A model of a family in diffusers' layout, all parts small and random; pictures of 128 px or its default."""
    from diffusers import AutoencoderKL

    from regionstyle.nodes.tinyworld.tokenizer import load_tokenizer

    words, t5 = load_tokenizer(), t5_words()
    torch.manual_seed(0)
    encoders = {
        "sd": lambda: [clip_tower(WIDTH, None, words)],
        "sdxl": lambda: [clip_tower(24, None, words), clip_tower(WIDTH - 24, SDXL_POOLED, words)],
        "sd3": lambda: [clip_tower(24, 1024, words), clip_tower(40, 1024, words), t5_tower(4096, t5)],
        "flux": lambda: [clip_tower(FLUX_POOLED, None, words), t5_tower(WIDTH, t5)],
    }[family]()
    for number, encoder in enumerate(encoders, 1):
        end = f"_{number}" if number > 1 else ""
        encoder.save_pretrained(folder / f"text_encoder{end}")
        tokenizer = t5 if type(encoder).__name__ == "T5EncoderModel" else words
        tokenizer.save_pretrained(str(folder / f"tokenizer{end}"))
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    channels = 16 if family in ("sd3", "flux") else 4
    AutoencoderKL(block_out_channels=(32,) * 4, latent_channels=channels, **kinds).save_pretrained(folder / "vae")
    part = "unet" if family in ("sd", "sdxl") else "transformer"
    diffusers_network(family).save_pretrained(folder / part)
    diffusers_scheduler(family).save_pretrained(folder / "scheduler")
    return folder


def save_peft_folder(network_folder: Path, folder: Path, more: dict | None = None) -> Path:
    """A PEFT adapter folder with one random layer of a saved network, and `more` tensors."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(next(network_folder.glob("*.safetensors")), "pt") as file:
        layer = next(key for key in file.keys() if key.endswith((".attn.to_v.weight", ".attn1.to_v.weight")))  # noqa: SIM118
        outputs, inputs = file.get_slice(layer).get_shape()
    name = "base_model.model." + layer.removesuffix(".weight")
    tensors = {f"{name}.lora_A.weight": torch.randn(2, inputs), f"{name}.lora_B.weight": torch.randn(outputs, 2)}
    folder.mkdir(parents=True)
    save_file({**tensors, **(more or {})}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_v"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
