"""Loaders for the parts of FLUX.1 that ComfyUI's own cannot load small: T5, and on 0.3.64 the transformer."""

import dataclasses

import comfy.ldm.flux.model
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch

T5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
CLIP = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}


class ProbeFluxText:
    """CLIP-L and T5 as DualCLIPLoader's type flux makes them, small and random; the tokenizers are the real ones."""

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "run"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        options = {"t5xxl_model_config": T5, "clip_l_model_config": CLIP}
        flux = comfy.sd.CLIPType.FLUX
        clip = comfy.sd.load_text_encoder_state_dicts([{}, {}], clip_type=flux, model_options=options)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in clip.cond_stage_model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator) * (
                0.05 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            )
            parameter.data.copy_(values + float(parameter.ndim == 1 and "norm" in name and name.endswith("weight")))
        return (clip,)


class ProbeFlux:
    """A FLUX of any width from a file, as UNETLoader of a newer ComfyUI loads it."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unet_name": (folder_paths.get_filename_list("diffusion_models"),)}}

    def run(self, unet_name):
        state = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("diffusion_models", unet_name))
        config = comfy.supported_models.Flux(shape_of(state))
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(state, "")
        wanted = model.diffusion_model.state_dict()
        named = {
            key if key in wanted else key.replace("_norm.scale", "_norm.weight"): value for key, value in state.items()
        }
        model.diffusion_model.load_state_dict(named)
        device, away = management.get_torch_device(), management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(model, device, away),)


def shape_of(state):
    """What ComfyUI's detection says of a FLUX, with the width that the file has."""
    width = state["txt_in.weight"].shape[0]
    numbers = {name: len({key.split(".")[1] for key in state if key.startswith(f"{name}.")})
               for name in ("double_blocks", "single_blocks")}  # fmt: skip
    shape = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "mlp_ratio": 4.0,
        "vec_in_dim": state["vector_in.in_layer.weight"].shape[1], "context_in_dim": state["txt_in.weight"].shape[1],
        "hidden_size": width, "num_heads": width // 128, "depth": numbers["double_blocks"],
        "depth_single_blocks": numbers["single_blocks"], "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True,
        "guidance_embed": "guidance_in.in_layer.weight" in state,
    }  # fmt: skip
    newer = "txt_ids_dims" in {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}
    return {**shape, "txt_ids_dims": []} if newer else shape
