"""Networks of the real architectures with random weights, saved as the public ones are: no download."""

from pathlib import Path

import torch

WORDS = "red blue green star ring cat dog a the on of left right photo . , ?"


def save_tiny_dino(folder: Path, seed: int = 0, words: str = WORDS) -> Path:
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
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split()]
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
    sizes = {"shortest_edge": 96, "longest_edge": 192}  # smaller ones leave one place in the last level
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=sizes), tokenizer).save_pretrained(folder)
    return folder


CHAT = (
    "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(specials: list[str], texts: list[str]):
    """A byte-level tokenizer, its merges learnt from `texts`, which its vocabulary therefore covers shortly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>", *specials], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def save_tiny_llava(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """A LLaVA of few channels, 28 px pictures, as `save_pretrained` writes it."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )  # fmt: skip

    tokenizer = byte_tokenizer(["<image>"], texts)
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=7, projection_dim=32)  # fmt: skip
    text = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                       num_attention_heads=4, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1,
                       bos_token_id=1)  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def save_tiny_qwen(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """A Qwen2.5-VL of few channels, as `save_pretrained` writes it."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
    )
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    specials = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(specials, texts)
    ids = dict(
        zip(("vision_start", "image", "vision_end", "video"), tokenizer.convert_tokens_to_ids(specials), strict=True)
    )
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
                     "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"},
                     "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
                       "fullatt_block_indexes": [1], "window_size": 56},
        **{f"{name}_token_id": number for name, number in ids.items()},
    )  # fmt: skip
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112)
    Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template).save_pretrained(folder)
    return folder


def learn_reply(vlm, prompt: str, reply: str, side: int = 28) -> None:
    """Teach a tiny vision-language model one reply by heart, whatever the picture of `side` pixels shows."""
    from PIL import Image

    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    talk = vlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    picture = Image.new("RGB", (side, side))
    inputs = vlm.processor(images=[picture], text=[f"{talk}{reply}</s>"], return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, : -len(vlm.processor.tokenizer(f"{reply}</s>")["input_ids"])] = -100
    model = vlm.model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        inputs["pixel_values"] = torch.randn_like(inputs["pixel_values"])
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.01:
            break
    model.requires_grad_(False)
