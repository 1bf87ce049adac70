"""A small random FLUX.1 Kontext of the real layout, its autoencoder and RegionRoute's experts, under their real names.

ComfyUI 0.33 tells FLUX by its layers and takes width and depth from the file; 0.3.64 takes the width for granted, and
T5-XXL is never smaller than it is, so what cannot be small is loaded by nodes of the probe pack (`with_probes`). The
autoencoder is TAEF1's layout, a public small one that Load VAE knows. The experts have rank 8 instead of 4: one of the
published names and rank must be whole, and these fit a network of three blocks.
"""

import copy
from pathlib import Path

STYLES = ("pixel-art", "line-art", "cyberpunk", "expressionism")
SIDE = 256  # pixels of the picture that the network is given; Kontext's own is about 1024

MAKE = """
import comfy.taesd.taesd
from safetensors.torch import save_file

folder, styles = PLACES
WIDTH, DEPTH, SINGLE, RANK, QKV = 128, 1, 2, 8, ("to_q", "to_k", "to_v")
SCALE = 0.017  # of TAEF1: its random latents are small, those of FLUX are not

def layers():
    double = [f"transformer_blocks.{i}.attn.{part}" for i in range(DEPTH) for part in (*QKV, "to_out.0")]
    return double + [f"single_transformer_blocks.{i}.attn.{part}" for i in range(SINGLE) for part in QKV]

def expert(seed):
    generator, made = torch.Generator().manual_seed(seed), {}
    for layer in layers():
        made[f"transformer.{layer}.lora_A.weight"] = torch.randn(RANK, WIDTH, generator=generator) * WIDTH ** -0.5
        made[f"transformer.{layer}.lora_B.weight"] = torch.randn(WIDTH, RANK, generator=generator) * 0.5
    return made

def place(*names):
    path = os.path.join(folder, *names)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path

with torch.inference_mode():
    model = flux_model(hidden_size=WIDTH, num_heads=1, axes_dim=[16, 56, 56], depth=DEPTH, depth_single_blocks=SINGLE)
    state = model.model.diffusion_model.state_dict()
    named = {re.sub(r"_norm\\.weight$", "_norm.scale", key): value.half().contiguous() for key, value in state.items()}
    save_file(named, place("diffusion_models", "flux1-dev-kontext_fp8_scaled.safetensors"))
    vae = fill(comfy.taesd.taesd.TAESD(latent_channels=16)).state_dict()
    save_file({**vae, "vae_scale": torch.tensor(SCALE)}, place("vae", "ae.safetensors"))
    for seed, style in enumerate(styles):
        save_file(expert(seed), place("loras", "regionroute", f"{style}.safetensors"))
print(json.dumps(sorted(named)))
"""


def save_kontext(comfy: Path, python: Path, models: Path) -> Path:
    """The networks in a models folder; returns the folder."""
    from comfy_script import run_script

    networks = Path(__file__).with_name("comfy_models.py").read_text(encoding="utf-8")
    run_script(comfy, python, f"{networks}\nimport re\nPLACES = {[str(models), STYLES]!r}\n{MAKE}")
    return models


def with_probes(workflow: dict, old: bool = False) -> dict:
    """The workflow with a loader of a small T5 in DualCLIPLoader's place, on 0.3.64 also one of a narrow FLUX, and
    every picture that was brought to Kontext's size made smaller behind that node; four steps."""
    made = copy.deepcopy(workflow)
    for key, node in workflow.items():
        if node["class_type"] == "DualCLIPLoader":
            made[key] |= {"class_type": "ProbeFluxText", "inputs": {}}
        elif node["class_type"] == "UNETLoader" and old:
            made[key] |= {"class_type": "ProbeFlux", "inputs": {"unet_name": node["inputs"]["unet_name"]}}
        elif node["class_type"] == "FluxKontextImageScale":
            size = {"upscale_method": "area", "width": SIDE, "height": SIDE, "crop": "disabled"}
            made[f"{key}:small"] = {"class_type": "ImageScale", "inputs": {"image": [key, 0], **size}}
        elif node["class_type"] == "KSampler":
            made[key]["inputs"]["steps"] = 4
    scaled = {key for key, node in workflow.items() if node["class_type"] == "FluxKontextImageScale"}
    for key, node in made.items():
        if not key.endswith(":small"):
            links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
            node["inputs"] |= {name: [f"{at}:small", slot] for name, (at, slot) in links.items() if at in scaled}
    return made
