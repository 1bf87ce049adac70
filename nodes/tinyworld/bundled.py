"""The shipped weights of the tiny world: where they are, and how each host gets its networks from them.

Files are float16 safetensors under diffusers' and transformers' own keys:
`vae`, `text`, `unet`, the measuring CLIP `clip_text`, `clip_image` and `clip_scale`, `classifier`, `photo_classifier`
(the judge of photographs), `editing` (what lets the denoiser edit by words), and one LoRA per style in
`experts/tinyworld/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.errors import RegionStyleError
from ..engine.lora.style_key import style_slug
from .networks import new_image_tower, new_text_tower, new_unet, new_vae, scheduler
from .styles import STYLES
from .tokenizer import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..engine.host.base import Host
    from ..engine.lora.expert import Expert
    from ..engine.predictor.diffusers import DiffusersPredictor

FOLDER = Path(__file__).parent / "weights"
EXPERTS = FOLDER / "experts"  # ComfyUI lists it among its LoRA folders, so names there begin with "tinyworld/"
LICENCE = "MIT, trained by this project on pictures it renders itself and on scikit-image's public domain photographs"


# How much of a picture each shipped expert redraws best: fine textures keep more of it than a change of medium.
STRENGTHS = {
    "halftone": 0.6,
    "mosaic": 0.38,
    "neon": 0.75,
    "pencil sketch": 0.75,
    "pixel art": 0.38,
    "watercolor": 0.45,
}
USUAL_STRENGTH = 0.3
RESTYLE = {"steps": 6, "cfg": 1.0}  # its experts need few steps and no guidance: fields of `RestyleSettings`
# The same on tiles of photographs, which are full of small things that drawn noise would drown: chosen on photographs
# that are not held out.
IN_TILES: dict[str, dict[str, Any]] = {
    "halftone": {"strength": 0.35},
    "mosaic": {"strength": 0.35},
    "neon": {"strength": 0.5},
    "oil paint": {"strength": 0.4},
    "pencil sketch": {"strength": 0.7, "weight": 0.92},
    "pixel art": {"strength": 0.38},
    "watercolor": {"strength": 0.52, "weight": 1.25},
}


def in_tiles(style: str) -> dict[str, Any]:
    """How a shipped expert paints tiles of a photograph best: fields of `RestyleSettings`."""
    usual = {"strength": STRENGTHS.get(style, USUAL_STRENGTH), "steps": 4, "detail": "full", "inverted": 1.0}
    return {**usual, **IN_TILES.get(style, {})}


@dataclass(frozen=True)
class Components:
    """The parts of an SD1.5-class pipeline, in evaluation mode, float32, on the CPU."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any


def bundled(name: str) -> bool:
    """Whether the installation has this file."""
    return (FOLDER / f"{name}.safetensors").exists()


def read(name: str) -> dict[str, Tensor]:
    """The tensors of one shipped file. RegionStyleError when the installation lacks it."""
    from safetensors.torch import load_file

    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise RegionStyleError(
            f"tiny world: {path.name} is missing from {path.parent}. Install the package again, or "
            "train it: regionstyle train tinyworld --time-budget 360"
        )
    return load_file(path)


def read_tensor(name: str, key: str) -> Tensor:
    """One tensor of a shipped file."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        return file.get_tensor(key)  # type: ignore[no-any-return]


def write(name: str, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write one shipped file in float16."""
    import torch
    from safetensors.torch import save_file

    path = FOLDER / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        k: v.detach().cpu().to(torch.float16 if v.is_floating_point() else v.dtype).contiguous()
        for k, v in state.items()
    }
    save_file(half, path, metadata={"format": "pt", "licence": LICENCE, **(metadata or {})})
    path.chmod(0o644)  # safetensors writes files for the owner only; an installed package is read by everybody
    return path


def filled(build: Callable[[], nn.Module], name: str) -> Any:
    """The network `build()` makes, with the tensors of one shipped file, in evaluation mode and without gradients.

    Its random initial values are not drawn: that would take longer than reading the file, and move torch's generator.
    """
    with _no_random_values():
        module = build()
    module.load_state_dict({key: _single(value) for key, value in read(name).items()}, assign=True)
    return module.eval().requires_grad_(False)


def _no_random_values() -> AbstractContextManager[Any]:
    """Parameters made inside keep whatever their memory holds where a layer would draw them at random."""
    from torch.overrides import TorchFunctionMode

    # By name: transformers puts functions of its own in the place of torch's.
    drawing = ("uniform_", "normal_", "kaiming_uniform_", "trunc_normal_")

    class NoRandomValues(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in drawing:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    return NoRandomValues()


def _single(stored: Tensor) -> Tensor:
    """float16 as float32; whole numbers stay.

    By numpy, in this thread: torch would wake its thread pool for each of hundreds of small tensors, which takes
    seconds where other programs use the cores.
    """
    import numpy as np
    import torch

    if not stored.is_floating_point():
        return stored
    converted = torch.empty_like(stored, dtype=torch.float32)
    np.copyto(converted.numpy(), stored.numpy())
    return converted


def load_text_tower(name: str = "text") -> tuple[Any, Any]:
    """A text tower and its tokenizer: "text", the denoiser's, or "clip_text", that of the measuring CLIP."""
    tokenizer = load_tokenizer()
    words = len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
    return filled(lambda: new_text_tower(*words), name), tokenizer


def load_vae() -> Any:
    """The autoencoder."""
    return filled(new_vae, "vae")


def load_image_tower() -> Any:
    """CLIP's image tower."""
    return filled(new_image_tower, "clip_image")


def load_components() -> Components:
    """All parts of the pipeline."""
    tower, tokenizer = load_text_tower()
    return Components(filled(new_unet, "unet"), load_vae(), tower, tokenizer, scheduler())


def expert_path(style: str) -> Path:
    """Where the shipped expert of a style lies, trained or not."""
    return EXPERTS / "tinyworld" / f"{style_slug(style)}.safetensors"


def expert_files() -> dict[str, Path]:
    """Style -> the shipped expert's file, in the order of `STYLES`."""
    files = {style: expert_path(style) for style in STYLES}
    return {style: path for style, path in files.items() if path.exists()}


def load_bundled_expert(style: str) -> Expert:
    """The expert of a style. RegionStyleError listing the styles that have one."""
    from ..engine.lora.load import load_expert

    files = expert_files()
    if style not in files:
        raise RegionStyleError(f"style: got {style!r}, expected one of: {', '.join(files)}. Choose one of these.")
    return load_expert(files[style], name=style)


def preferred_strength(expert: Expert) -> float | None:
    """How much of a picture an expert redraws best, in 0..1, when it is one of the shipped ones; None for any other.

    Of the shipped file one tensor is read, to tell it from another expert of the same style.
    """
    path = expert_path(expert.style)
    if expert.style not in STYLES or not path.exists() or not _holds_first_layer(path, expert):
        return None
    return STRENGTHS.get(expert.style, USUAL_STRENGTH)


def inverted_in_tiles(expert: Expert) -> float | None:
    """How much of the noise that an expert starts from in tiles is the picture's own, when it is one of the shipped
    ones; None for any other."""
    return None if preferred_strength(expert) is None else float(in_tiles(expert.style)["inverted"])


def _holds_first_layer(path: Path, expert: Expert) -> bool:
    """Whether the first layer of an expert has the down matrix that a shipped file has for it."""
    import torch
    from safetensors import safe_open

    from ..engine.lora.save import kohya_name

    layer, update = next(iter(expert.layers.items()))
    key = f"{kohya_name(layer)}.lora_down.weight"
    with safe_open(path, framework="pt") as file:
        return key in file.keys() and torch.equal(file.get_tensor(key).float(), update.down.cpu().float())  # noqa: SIM118


def load_predictor(host: Host, experts: list[Expert] | None = None) -> DiffusersPredictor:
    """The tiny world's predictor on a host, with experts attached (all off until a gate opens them)."""
    from ..engine.adapters.stack import ExpertStack
    from ..engine.predictor.diffusers import DiffusersPredictor
    from .recogniser import TinyRecogniser

    parts = load_components()
    stack = None
    if experts:
        stack = ExpertStack(parts.unet, experts)
        stack.attach()
    predictor = DiffusersPredictor(
        parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler, host, stack
    )
    predictor.recogniser = TinyRecogniser()
    return predictor
