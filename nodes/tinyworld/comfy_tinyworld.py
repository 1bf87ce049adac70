"""The tiny world's networks as ComfyUI's own MODEL, CLIP and VAE.

ComfyUI's detection knows real sizes only, so the configurations are given instead of detected; everything else is
ComfyUI's own class for SD1.5. Objects are built outside inference mode, so that gradients can be had later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..engine.predictor.recogniser import ATTACHMENT
from .bundled import EXPERTS, read
from .networks import TEXT_CONFIG, UNET_CONFIG
from .recogniser import TinyRecogniser
from .tokenizer import FOLDER as TOKENIZER_FOLDER

FOR_ALL = "REGIONSTYLE_TINYWORLD_LORAS"  # environment variable: "1" lists the shipped LoRAs in models/loras too
LATENT_SCALE = 0.18215  # of ComfyUI's SD15 latent format


def _unet_config() -> dict[str, Any]:
    """ComfyUI's names for `UNET_CONFIG`."""
    widths = UNET_CONFIG["block_out_channels"]
    levels, layers = len(widths), UNET_CONFIG["layers_per_block"]
    return {
        "image_size": UNET_CONFIG["sample_size"],
        "in_channels": UNET_CONFIG["in_channels"],
        "out_channels": UNET_CONFIG["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [layers] * levels,
        "channel_mult": [w // widths[0] for w in widths],
        "transformer_depth": [1] * levels * layers,
        "transformer_depth_output": [1] * levels * (layers + 1),
        "transformer_depth_middle": 1,
        "context_dim": UNET_CONFIG["cross_attention_dim"],
        "use_spatial_transformer": True,
        "legacy": False,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "num_heads": UNET_CONFIG["attention_head_dim"],
        "num_head_channels": -1,
    }


def _unet_state(config: dict[str, Any]) -> dict[str, Any]:
    """The U-Net's weights under ComfyUI's module paths, by ComfyUI's own name table."""
    import comfy.utils

    table = comfy.utils.unet_to_diffusers(config)
    return {table[key]: value.float() for key, value in read("unet").items()}


def load_model() -> Any:
    """The denoiser as a MODEL."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    with torch.inference_mode(False):
        config = comfy.supported_models.SD15(_unet_config())
        # SD15's own entries (8 heads) replace what was given; put the network's back
        config.unet_config.update(_unet_config())
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        model.diffusion_model.load_state_dict(_unet_state(_unet_config()))
        model.eval()
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        return patcher(model, management.get_torch_device(), management.unet_offload_device())


def _text_json() -> dict[str, Any]:
    from .tokenizer import load_tokenizer

    tokenizer = load_tokenizer()
    return {
        **TEXT_CONFIG,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "num_positions": TEXT_CONFIG["max_position_embeddings"],
    }


def _tokenizer_class() -> type:
    from comfy import sd1_clip

    class TinyTokenizer(sd1_clip.SDTokenizer):
        """CLIP's tokenizer over the tiny world's vocabulary."""

        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                str(TOKENIZER_FOLDER),
                embedding_directory=embedding_directory,
                embedding_size=TEXT_CONFIG["hidden_size"],
                embedding_key="clip_l",
                tokenizer_data={},
            )

    class TinyWorldTokenizer(sd1_clip.SD1Tokenizer):
        """The tokenizer in the form ComfyUI's CLIP object wants."""

        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory, tokenizer_data={}, clip_name="l", tokenizer=TinyTokenizer
            )

    return TinyWorldTokenizer


def _text_model_class() -> type:
    from comfy import sd1_clip

    config = _text_json()
    tokens = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class TinyTextModel(sd1_clip.SDClipModel):
        """ComfyUI's CLIP text model at the tiny world's size."""

        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None, **_: Any) -> None:
            super().__init__(
                device=device, dtype=dtype, textmodel_json_config=config, special_tokens=tokens, model_options={}
            )

    class TinyWorldText(sd1_clip.SD1ClipModel):
        """The text encoder in the form ComfyUI's CLIP object wants."""

        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options={}, clip_name="l", clip_model=TinyTextModel)

    return TinyWorldText


def load_clip() -> Any:
    """The text encoder as a CLIP."""
    import comfy.sd
    import comfy.supported_models_base
    import torch

    with torch.inference_mode(False):
        target = comfy.supported_models_base.ClipTarget(_tokenizer_class(), _text_model_class())
        target.params = {}
        clip = comfy.sd.CLIP(target, embedding_directory=None)
        loaded = clip.load_sd(text_state(read("text")))
        _check_loaded(loaded)
        clip.patcher.set_attachments(ATTACHMENT, TinyRecogniser())
        return clip


COMFY_VOCABULARY = 49408  # fixed in ComfyUI's CLIP


def text_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoder's weights with the token table filled up with zeros to the length ComfyUI's class has."""
    import torch

    name = "text_model.embeddings.token_embedding.weight"
    full = torch.zeros(COMFY_VOCABULARY, state[name].shape[1])
    full[: len(state[name])] = state[name]
    return {key: value.float() for key, value in state.items()} | {name: full}


def _check_loaded(loaded: Any) -> None:
    """ComfyUI's loader only reports what does not fit; here everything must."""
    from ..engine.errors import RegionStyleError

    missing, unexpected = loaded
    if missing or unexpected:
        raise RegionStyleError(
            f"tiny world: the text encoder's file lacks {missing[:4]} and has unknown {unexpected[:4]}. "
            "Install the package again."
        )


def load_vae() -> Any:
    """The autoencoder as a VAE."""
    import comfy.sd
    import torch

    with torch.inference_mode(False):
        state = {key: value.float() for key, value in vae_state(read("vae")).items()}
        return comfy.sd.VAE(sd=state, dtype=torch.float32)


def vae_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The autoencoder under ComfyUI's TAESD names, with SD1.5's latent scale, which ComfyUI divides out again."""
    import torch

    # the decoder of ComfyUI's class counts the clamp in front as its first layer
    moved = {
        key.replace("encoder.layers.", "taesd_encoder."): value
        for key, value in state.items()
        if key.startswith("encoder.")
    }
    for key, value in state.items():
        if key.startswith("decoder."):
            _, _, index, rest = key.split(".", 3)
            moved[f"taesd_decoder.{int(index) + 1}.{rest}"] = value
    return {**moved, "vae_scale": torch.tensor(LATENT_SCALE), "vae_shift": torch.tensor(0.0)}


def register_experts() -> None:
    """Add the shipped experts and SAM to ComfyUI's folders, after the user's own.

    The experts have a folder kind of their own; with `FOR_ALL` in the environment every LoRA loader lists them. Nodes
    that know them as files only learn how they work in tiles.
    """
    import folder_paths

    from ..engine.io.expert_files import BUNDLED, LORAS
    from ..engine.lora.inverting import tell_inverting
    from .bundled import inverted_in_tiles
    from .tiny_sam import SAMS

    tell_inverting("tinyworld", inverted_in_tiles)

    for kind in (BUNDLED, LORAS) if os.environ.get(FOR_ALL) else (BUNDLED,):
        folder_paths.add_model_folder_path(kind, str(EXPERTS))
    folder_paths.add_model_folder_path("sams", str(SAMS))
