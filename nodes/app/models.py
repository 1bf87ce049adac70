"""The user's own model on the command line: a folder in diffusers' layout, with a style LoRA.

Which networks, and where their parts lie: `FolderLayout` of the families in `engine/families`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.errors import RegionStyleError, wrong_input
from .single_file import single_file_error

if TYPE_CHECKING:
    from ..engine.families.base import FolderLayout, ModelFamily
    from ..router.restyle import RestyleSettings

# Files as `save_pretrained` names them: one, or numbered parts; with or without a variant.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")
_NETWORKS = ("unet", "transformer")
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_ENCODERS = (*_CLIP, "T5EncoderModel")
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


def load_folder(folder: Path, expert: Path | None, host: Any) -> Any:
    """A predictor over a folder with one of diffusers' models (`unet` or `transformer`, and the parts beside it).

    expert: a LoRA file or PEFT folder to attach, or None. Only safetensors files are read. RegionStyleError naming
    the folder and what it lacks, before any weight is read.
    """
    part, config, family = _network(folder)
    layout = _layout(family)
    _check_parts(folder, part, family)
    import diffusers

    from ..engine.predictor.diffusers import DiffusersPredictor

    autoencoder = _class_of(folder / "vae", _AUTOENCODERS, "_class_name")
    text = {part: _class_of(folder / part, _ENCODERS, "architectures") for part in _numbered("text_encoder", layout)}
    network = _weights(getattr(diffusers, config["_class_name"]), folder / part, host.dtype("unet"))
    vae = _weights(getattr(diffusers, autoencoder), folder / "vae", host.dtype("vae"))
    encoders, tokenizers = _text_parts(folder, text, host.dtype("text"))
    schedule = None
    if layout.table:
        schedule = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    for module in (network, vae, *encoders):
        module.eval().requires_grad_(False)
    stack = _stack(network, expert)
    return DiffusersPredictor(network, vae, encoders, tokenizers, schedule, host, stack)


def folder_settings(predictor: Any, **chosen: Any) -> tuple[RestyleSettings, str | None]:
    """The usual settings for a user's model, and its negative prompt: None for a network that is told its guidance.

    Whatever is chosen replaces the usual values.
    """
    from ..engine.families.registry import family_of
    from ..router.restyle import RestyleSettings

    layout = _layout(family_of(predictor.network))
    usual = {"strength": 0.6, "steps": 30, "cfg": 7.0 if layout.guided else 1.0, "feather": 8, "largest_scale": 4.0}
    return RestyleSettings(**{**usual, **chosen}), "" if layout.guided else None


def _network(folder: Path) -> tuple[str, dict[str, Any], ModelFamily]:
    """Where the network lies in a folder, its configuration, and its family."""
    if folder.is_file():
        raise single_file_error(folder, f"a folder with {_known()}")
    if not folder.is_dir():
        raise RegionStyleError(
            f"--model: got {str(folder)!r}, expected 'tinyworld' or a folder with {_known()}. There is no such folder; "
            "check the path."
        )
    part = next((part for part in _NETWORKS if (folder / part).is_dir()), None)
    if part is None:
        raise _lacking(folder, [" or ".join(_NETWORKS)])
    config = _config(folder / part)
    return part, config, _family_of(config)


def _family_of(config: Mapping[str, Any]) -> ModelFamily:
    from ..engine.families.registry import family_in_folder

    family = family_in_folder(config)
    if family is None:
        told = config.get("addition_embed_type")
        got = f"a network of class {config.get('_class_name')}" + (f", {told}" if told else "")
        raise wrong_input("--model", got, _known(), "Choose another folder.")
    return family


def _layout(family: ModelFamily) -> FolderLayout:
    """The parts of a family's folder. RegionStyleError for a family that has none."""
    if family.folder is None:
        raise wrong_input("--model", f"a network of the {family.name} class", _known(), "Choose another model.")
    return family.folder


def _known() -> str:
    from ..engine.families.support import supported_folders

    return f"a model of {supported_folders()} in diffusers layout"


def _check_parts(folder: Path, network: str, family: ModelFamily) -> None:
    """Every part has its folder, and every network its weights as safetensors."""
    layout = _layout(family)
    encoders = _numbered("text_encoder", layout)
    others = [*_numbered("tokenizer", layout), *(["scheduler"] if layout.table else [])]
    lacking = [part for part in ("vae", *encoders, *others) if not (folder / part).is_dir()]
    if lacking:
        raise _lacking(folder, lacking, family)
    for part in (network, "vae", *encoders):
        if not any((folder / part).glob("*.safetensors")):
            raise RegionStyleError(
                f"--model: {str(folder / part)!r} holds no .safetensors file; other formats are not "
                "loaded. Convert the weights to safetensors."
            )


def _lacking(folder: Path, parts: list[str], family: ModelFamily | None = None) -> RegionStyleError:
    accepts = f"what a model of the {family.name} class has" if family else _known()
    return RegionStyleError(
        f"--model: the folder {str(folder)!r} has no {', '.join(parts)}, expected {accepts}. Convert the checkpoint, "
        "or choose another folder."
    )


def _numbered(part: str, layout: FolderLayout) -> list[str]:
    return [part, *(f"{part}_{number}" for number in range(2, layout.encoders + 1))]


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        config = "no such file"
    except (ValueError, RecursionError) as error:
        config = f"no JSON ({error})"
    if not isinstance(config, dict):
        raise wrong_input("--model", f"{str(path)!r}: {config}", "the part's configuration", "Get the model anew.")
    return config


def _class_of(folder: Path, known: tuple[str, ...], key: str) -> str:
    """The class a part's configuration names, under `key`; one of `known`, the first where none is named."""
    named = _config(folder).get(key) or known[0]
    name = named[0] if isinstance(named, list) else named
    if name not in known:
        raise wrong_input("--model", f"{str(folder)!r} of class {name}", " or ".join(known), "Choose another folder.")
    return name


def _weights(kind: Any, folder: Path, dtype: Any) -> Any:
    options = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    return kind.from_pretrained(folder, variant=weights_variant(folder), **options)


def weights_variant(folder: Path) -> str | None:
    """The variant of the weights to read, "fp16" of model.fp16.safetensors; None for files without one.

    Those without one come first, then fp16, then others by name.
    """
    names = [match for file in folder.glob("*.safetensors") if (match := _WEIGHTS.fullmatch(file.name))]
    variants = {match["variant"] for match in names}
    if not variants or None in variants:
        return None
    return "fp16" if "fp16" in variants else sorted(variants)[0]


def _text_parts(folder: Path, kinds: Mapping[str, str], dtype: Any) -> tuple[list[Any], list[Any]]:
    """Text encoders of the classes in `kinds` (folder -> class), in their order, and the tokenizer of each."""
    import transformers

    encoders, tokenizers = [], []
    for part, kind in kinds.items():
        encoders.append(_weights(getattr(transformers, kind), folder / part, dtype))
        reader: Any = transformers.CLIPTokenizer if kind in _CLIP else transformers.AutoTokenizer
        tokenizer = folder / part.replace("text_encoder", "tokenizer")
        tokenizers.append(reader.from_pretrained(tokenizer, local_files_only=True))
    return encoders, tokenizers


def _stack(network: Any, expert: Path | None) -> Any:
    """The expert attached. What its file has for the text encoder is left out, which `load_style_expert` says."""
    if expert is None:
        return None
    from ..engine.adapters.stack import ExpertStack
    from ..router.published_experts import load_style_expert

    if not expert.exists():
        raise RegionStyleError(
            f"--expert: got {str(expert)!r}, expected a LoRA file (.safetensors) or a PEFT folder. There is no such "
            "file or folder; check the path."
        )
    stack = ExpertStack(network, [load_style_expert(expert, network=network, ignore_text_encoder=True)])
    stack.attach()
    return stack
