"""A CLIP's folder as `save_pretrained` leaves it, of any size, with random weights and a vocabulary of letters."""

import json

import torch

LETTERS = [chr(code) for code in range(33, 127)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def write_clip_folder(path, vision, text, projection=12, mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.3, 0.4), dtype=None):
    """vision, text: of the towers' configurations; dtype: the weights are kept in."""
    from transformers import CLIPConfig, CLIPModel

    path.mkdir(parents=True)
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(VOCABULARY)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    text = {"vocab_size": len(VOCABULARY), "eos_token_id": len(VOCABULARY) - 1, **text}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection))
    model.to(dtype or torch.float32).save_pretrained(path)
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    processor = {"image_mean": mean, "image_std": deviation, "crop_size": size, "size": size}
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", **processor})
    )
    return path
