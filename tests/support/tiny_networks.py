"""Networks of the real architectures with random weights, saved as the public ones are: no download."""

from pathlib import Path

import torch

WORDS = "red blue green star ring cat dog a the on of left right photo . , ?"


def save_tiny_dino(folder: Path, seed: int = 0) -> Path:
    """A Grounding DINO of few channels with a tokenizer of few words, as `save_pretrained` writes it."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )  # fmt: skip

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    torch.manual_seed(seed)
    swin = SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=64,
                      out_features=["stage2", "stage3", "stage4"])  # fmt: skip
    bert = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=48)  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, num_queries=30, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4, max_text_len=32,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config).eval()
    with torch.no_grad():  # random words and boxes otherwise fit each other with probability 0 or 1
        model.model.decoder.layer_norm.weight.mul_(0.1)
    model.save_pretrained(folder)
    sizes = {"shortest_edge": 64, "longest_edge": 128}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=sizes), tokenizer).save_pretrained(folder)
    return folder
