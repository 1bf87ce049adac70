"""A random checkpoint of SD1.5's layout and LoRAs for it, under the names that the workflows which ship ask for.

ComfyUI's Load Checkpoint recognises a file by its layout: U-Net of 320 channels with text of 768 numbers, CLIP-L, and
TAESD, the small public autoencoder, whose layout it knows as well. The U-Net has three levels of one block each instead
of four of two, and looks at words from the second on, where SD1.5 has 32 places a side: a run takes seconds on a CPU.
"""

import copy
from pathlib import Path

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
LORAS = ("watercolor.safetensors", "pixel_art.safetensors")

MAKE = """
import comfy.lora, comfy.sd1_clip, comfy.supported_models, comfy.taesd.taesd
from safetensors.torch import save_file

folder, name, loras = PLACES
SHAPE = {**UNET, "model_channels": 320, "context_dim": 768, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 2],
         "transformer_depth": [0, 1, 1], "transformer_depth_output": [0, 0, 1, 1, 1, 1]}
SHARPER = 64  # times: random attention tells words apart too little for any of them to be found
SCALE = 0.0077  # of TAESD: its random latents are small, those of SD1.5 are not

def unet():
    config = comfy.supported_models.SD15({**SHAPE})
    config.unet_config.update({**config.unet_extra_config, **SHAPE})
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "")

def lora(shapes, seed):
    '''Rank 4 on every attention, in kohya's names.'''
    generator, made = torch.Generator().manual_seed(seed), {}
    for key, (outputs, inputs) in shapes.items():
        made[f"{key}.lora_down.weight"] = torch.randn(4, inputs, generator=generator) * inputs ** -0.5
        made[f"{key}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator)
    return made

with torch.inference_mode():
    model = unet()
    for path, weight in fill(model.diffusion_model).named_parameters():
        if path.endswith("attn2.to_q.weight"):
            weight.mul_(SHARPER)
    parts = {
        "model.diffusion_model": model.diffusion_model,
        "first_stage_model": fill(comfy.taesd.taesd.TAESD(latent_channels=4)),
        "cond_stage_model.transformer": fill(comfy.sd1_clip.SD1ClipModel("cpu", torch.float32).clip_l.transformer),
    }
    weights = {f"{part}.{key}": value.half().contiguous() for part, network in parts.items()
               for key, value in network.state_dict().items()}
    weights |= {"first_stage_model.vae_scale": torch.tensor(SCALE), "first_stage_model.vae_shift": torch.tensor(0.0)}
    for kind in ("checkpoints", "loras"):
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
    save_file(weights, os.path.join(folder, "checkpoints", name))
    state = model.state_dict()
    shapes = {key: state[weight].shape for key, weight in comfy.lora.model_lora_keys_unet(model).items()
              if "_block" in key and "_attentions_" in key and "_attn" in key and key.startswith("lora_unet_")}
    for seed, file in enumerate(loras):
        save_file(lora(shapes, seed), os.path.join(folder, "loras", file))
print(json.dumps(sorted(shapes)))
"""


def save_checkpoint(comfy: Path, python: Path, models: Path) -> Path:
    """The checkpoint and the LoRAs in a models folder; returns the folder."""
    from comfy_script import run_script

    networks = Path(__file__).with_name("comfy_models.py").read_text(encoding="utf-8")
    run_script(comfy, python, f"{networks}\nPLACES = {[str(models), CHECKPOINT, LORAS]!r}\n{MAKE}")
    return models


def lightened(workflow: dict) -> dict:
    """The workflow with less work: two steps without guidance, one look, no enlargement, pictures of 128 px.

    The network is random, so more of them say no more, and a CPU runs it. bias: what random attention finds would else
    be nearly all of the picture.
    """
    less = {"steps": 2, "cfg": 1.0, "enlarge": 1.0, "draws": 1, "repeats": 1, "width": 128, "height": 128, "bias": 1.0}
    made = copy.deepcopy(workflow)
    for node in made.values():
        node["inputs"] |= {name: value for name, value in less.items() if name in node["inputs"]}
    return made
