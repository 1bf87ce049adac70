"""Teaching an expert on ComfyUI's MODEL, CLIP and VAE where its style belongs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.families.registry import family_of
from ...engine.host.comfy import ComfyHost
from ...engine.host.compiled import original_network
from ...engine.io.comfy_files import file_stem, files_mark
from ...engine.io.comfy_tensors import images_of
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.regions import Regions
from ...engine.training.comfy import SUBFOLDER, TrainedOnComfy, delivered, place_of_training, trainable_on_comfy
from ...engine.training.state import StateFile, facts_of
from ..training.examples import encode_pairs
from ..training.manifest import read_manifest
from ..training.pairs import Pair, pairs_of_batch
from ..training.run import new_expert, notice_of, train_expert
from ..training.settings import ExpertTrainSettings


def pairs_for(image: Any, original: Any, regions: Regions | None, manifest: str, prompts: str) -> list[Pair]:
    """The pairs of a batch, or of a manifest inside ComfyUI's input folder. RegionStyleError for both or neither."""
    given = [name for name, one in (("image", image), ("original", original), ("regions", regions)) if one is not None]
    if manifest.strip():
        if given or prompts.strip():
            got = f"a manifest and {', '.join([*given, 'prompts'] if prompts.strip() else given)}"
            raise wrong_input("manifest", got, "one of the two", "The manifest holds pictures, masks and prompts.")
        return read_manifest(manifest_path(manifest))
    if len(given) < 3:
        got = f"only {', '.join(given)}" if given else "nothing"
        accepts = "image, original and regions, or a manifest"
        raise wrong_input("image, original, regions", got, accepts, "Connect all three, or name a manifest.")
    assert regions is not None  # one of the three
    lines = prompts.splitlines() if prompts.strip() else []
    return pairs_of_batch(images_of(image), images_of(original), regions, lines)


def held_pairs(manifest: str) -> list[Pair]:
    """The pairs of a manifest inside ComfyUI's input folder that are to be held out; none without one."""
    return read_manifest(manifest_path(manifest, "validation_manifest")) if manifest.strip() else []


def manifest_path(name: str, what: str = "manifest") -> Path:
    """A manifest inside ComfyUI's input folder. RegionStyleError for one that is not there."""
    import folder_paths

    root = Path(folder_paths.get_input_directory()).resolve()
    path = (root / name.strip()).resolve()
    if root not in path.parents or not path.is_file():
        raise wrong_input(what, repr(name), f"a JSON file inside {root}", "Put it there, with its pictures.")
    return path


def manifest_mark(name: str) -> str:
    """Name, size and time of the manifest; "" without one (training says what is wrong)."""
    try:
        return files_mark([manifest_path(name)])
    except RegionStyleError:
        return ""


def teach_on_comfy(
    model: Any, clip: Any, vae: Any, pairs: list[Pair], name: str, settings: ExpertTrainSettings, *, resolution: int,
    resume: bool, held: Sequence[Pair] = (),
) -> TrainedOnComfy:  # fmt: skip
    """Train an expert and save it among ComfyUI's LoRAs. The MODEL given stays as it is.

    name: "" for the first style of the pairs; resolution: 0 for the model's own; held: see `encode_pairs`.
    RegionStyleError for a name that is no
    file name, a state that would be lost or is of another training, and whatever training refuses.
    """
    style = pairs[0].things[0].style
    name = file_stem(name or style, f"loras/{SUBFOLDER}")
    family_of(original_network(model.model.diffusion_model))  # says now which networks can be taught
    with place_of_training(name, resume) as state:
        plain = ComfyPredictor(model, clip, vae, ComfyHost())
        side = resolution or plain.native_size
        examples = encode_pairs(plain, pairs, side, settings, held)
        trainable, weights = trainable_on_comfy(
            model, name, lambda network, free: new_expert(network, free, style, settings)
        )  # fmt: skip
        predictor = ComfyPredictor(trainable, clip, vae, ComfyHost())
        kept = StateFile(state, facts_of(settings, examples.mark, side=side))
        trained = train_expert(predictor, weights, examples, settings, kept, resume=resume)
        return delivered(model, trained, name, "teaching", notice_of(trained, examples), "\n".join(examples.skipped))
