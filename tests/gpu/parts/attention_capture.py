"""Part 3: what it costs to see the attention of 8 words in all layers while a network runs."""

from __future__ import annotations

from typing import Any

from registry import Run, part

SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SMALL = {"block_out_channels": (32, 64, 64), "transformer_layers_per_block": 1, "attention_head_dim": 4}
SMALL_SD15 = {"block_out_channels": (32, 32, 64, 64)}
TOKENS = [[position] for position in range(1, 9)]


@part("attention-capture", order=33, seconds=40)
def capture(run: Run) -> None:
    measure(run, "SD1.5 at 512, two prompts", SD15 | (SMALL_SD15 if run.dry else {}), 8 if run.dry else 64)
    measure(run, "SDXL at 1024, two prompts", SDXL | (SMALL if run.dry else {}), 8 if run.dry else 128)


def measure(run: Run, label: str, config: dict[str, Any], latent: int) -> None:
    """A forward pass with and without the tap, in float16 on a GPU."""
    import torch
    from diffusers import UNet2DConditionModel
    from timing import peak_mib, seconds

    from regionstyle.nodes.engine.attention.tap import AttentionTap

    with torch.device(run.device):
        network = UNet2DConditionModel(**config).eval().requires_grad_(False)
        network.to(torch.float32 if run.dry else torch.float16)
        x, text = torch.randn(2, 4, latent, latent), torch.randn(2, 77, config["cross_attention_dim"])
        sizes = {"text_embeds": torch.randn(2, 1280).to(network.dtype), "time_ids": torch.zeros(2, 6)}
    given = {"encoder_hidden_states": text.to(network.dtype), "added_cond_kwargs": sizes, "return_dict": False}

    @torch.no_grad()
    def plain() -> Any:
        return network(x.to(network.dtype), 500, **given)

    def tapped(quantity: str) -> Any:
        with AttentionTap(network, TOKENS, quantity=quantity):
            return plain()

    runs = 2 if run.dry else 15
    alone, held = seconds(plain, run.device, runs), peak_mib(plain, run.device)
    run.figure(f"{label}: a forward pass", 1000 * alone, "ms")
    for quantity, wanted in (("logodds", "<= 3"), ("share", None)):
        took = seconds(lambda q=quantity: tapped(q), run.device, runs)  # type: ignore[misc]
        run.figure(f"{label}: {quantity} of 8 words, all layers", 100 * (took / alone - 1), "% more", wanted)
        more = peak_mib(lambda q=quantity: tapped(q), run.device) - held  # type: ignore[misc]
        run.figure(f"{label}: {quantity}, further memory", more, "MiB", of_gpu=True)
