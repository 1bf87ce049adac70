"""Where the things of a sentence are, for the command line: by the model's attention or Grounding DINO, with or
without Segment Anything's masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine.errors import RegionStyleError, wrong_input
from ..engine.language.instruction import Instruction
from ..engine.region.region import Region
from ..engine.sam_network import PUBLIC_FILES
from ..grounding.finders.attention import AttentionSettings
from ..grounding.finders.attention_finder import FoundRegions, regions_by_attention
from ..grounding.finders.dino import PUBLIC_FOLDERS
from ..grounding.finders.network_folders import CONFIG
from ..grounding.finders.sam import SamNetwork, encode, load_network
from ..grounding.finders.text_grounding import AttentionSource, BoxSource, DetectorSource, Grounded, ground

TINY_SAM = "tinyworld"


def check_finders(sam: str | None, detector: Path | None) -> None:
    """RegionStyleError for a detector without Segment Anything, whose boxes are no outlines, and for files that are
    missing."""
    if detector is not None and sam is None:
        raise RegionStyleError(
            "--detector: got it without --sam, expected both, since a detector finds boxes and no outlines. Add "
            f"--sam sam_vit_b_01ec64.pth, or --sam {TINY_SAM} for the small one inside the pack."
        )
    if sam is not None and sam != TINY_SAM and not Path(sam).is_file():
        files = ", ".join(PUBLIC_FILES.values())
        accepts = f"a file in {Path(sam).parent.resolve()}, or {TINY_SAM!r}"
        raise wrong_input("--sam", repr(sam), accepts, f"Put one of {files} there, or correct the path.")
    if detector is not None and not (detector / CONFIG).is_file():
        accepts = f"a folder with a {CONFIG} at {detector.resolve()}"
        raise wrong_input("--detector", repr(str(detector)), accepts, f"Put {PUBLIC_FOLDERS[0]} there, all its files.")


def load_sam_of(name: str) -> SamNetwork:
    """The network inside the pack ("tinyworld"), or that of a file in its authors' layout."""
    from ..tinyworld.tiny_sam import load_tiny_sam

    return SamNetwork(load_tiny_sam(), name) if name == TINY_SAM else load_network(Path(name))


def ground_instruction(
    predictor: Any, image: Tensor, sentence: Instruction, sam: str | None, detector: Path | None, seed: int
) -> list[Region]:
    """The regions of a sentence in a picture `[1,3,H,W]`; use inside the predictor's `loaded()`.

    sam: "tinyworld", a file, or None for the attention's own masks; detector: a folder, or None for attention.
    RegionStyleError when something is not found.
    """
    settings = AttentionSettings(seed=seed)
    found: FoundRegions | Grounded
    if sam is None:
        found = regions_by_attention(predictor, image, sentence, settings)
    else:
        source = _source(predictor, sentence, detector, settings)
        found = ground(image, encode(load_sam_of(sam), image, predictor.host), source, predictor.host)
    if found.notice:
        raise RegionStyleError(
            f"prompt: {found.notice}. Use other words for it, or give the region with --mask, --box or --whole."
        )
    return list(found.regions)


def _source(predictor: Any, sentence: Instruction, detector: Path | None, settings: AttentionSettings) -> BoxSource:
    from ..grounding.finders.dino import load_detector

    if detector is None:
        return AttentionSource(predictor, sentence, settings)
    return DetectorSource(load_detector(detector), sentence, predictor.host)
