"""The stages in their order: what each one trains, reads and ships.

`run_stage(name, ...)` goes on where the stage was stopped; a finished stage writes its float16 file into the shipped
weights. Stages: vae, decoder, clip, unet, measure, classifier, photo-classifier, sam, one expert per style
("expert:mosaic"), editing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...engine.errors import RegionStyleError
from ...engine.lora.style_key import style_slug
from ..bundled import FOLDER, bundled, expert_path, load_text_tower, load_vae, read, write
from ..networks import new_unet
from ..styles import STYLES, apply_style
from ..tokenizer import write_tokenizer
from .loop import Budget, Trainer
from .pool import Pool, open_pool

POOL_SIZE = 12000
EXPERT_PICTURES = 1000
EDITING_PAIRS = 2000
EXPERTS = tuple(f"expert:{style_slug(style)}" for style in STYLES)
STAGES = ("vae", "decoder", "clip", "unet", "measure", "classifier", "photo-classifier", "sam", *EXPERTS, "editing")
# Share of a time budget that is given for all stages together.
SHARES = {
    "vae": 0.06,
    "decoder": 0.05,
    "clip": 0.06,
    "unet": 0.34,
    "measure": 0.03,
    "classifier": 0.03,
    "photo-classifier": 0.02,
    "sam": 0.05,
    **dict.fromkeys(EXPERTS, 0.2 / len(EXPERTS)),
    "editing": 0.16,
}


@dataclass
class Run:
    """Where a training keeps its state, and how it is watched.

    from_nothing: denoiser, classifier, SAM and experts start from random weights, not from the shipped ones.
    """

    folder: Path
    device: torch.device
    cancelled: Callable[[], bool] = lambda: False
    report: Callable[[float, dict[str, float]], None] = lambda share, numbers: None
    seed: int = 0
    from_nothing: bool = False

    def pool(self) -> Pool:
        return open_pool(self.folder / "pool", POOL_SIZE)

    def trainer(self, name: str, modules: nn.ModuleDict, loss: Any, minutes: float, **options: Any) -> Trainer:
        state = self.folder / f"{name.replace(':', '-')}.pt"
        return Trainer(modules, loss, state, Budget(minutes), cancelled=self.cancelled, report=self.report, **options)


def run_stage(name: str, run: Run, minutes: float) -> bool:
    """Train one stage for up to `minutes` in all its runs together; True when it is finished and shipped.

    RegionStyleError for an unknown stage, or one whose predecessors' weights are missing.
    """
    if name not in STAGES:
        raise RegionStyleError(f"stage: got {name!r}, expected one of: {', '.join(STAGES)}. Choose one of these.")
    torch.manual_seed(run.seed)
    run.folder.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "tokenizer" / "vocab.json").exists():
        write_tokenizer()
    style = next((s for s in STYLES if f"expert:{style_slug(s)}" == name), None)
    if style is not None:
        return _expert(name, style, run, minutes)
    stages = {
        "vae": _vae,
        "decoder": _decoder,
        "clip": _clip,
        "unet": _unet,
        "measure": _measure,
        "classifier": _classifier,
        "photo-classifier": _photo_classifier,
        "sam": _sam,
        "editing": _editing,
    }
    return stages[name](run, minutes)


def _fill(network: nn.Module, file: str) -> None:
    """Put a shipped file's tensors into a network, in single precision."""
    network.load_state_dict({key: value.float() for key, value in read(file).items()})


def _start_from_shipped(modules: nn.ModuleDict, part: str, file: str, run: Run) -> None:
    """Go on from the shipped weights where there are some and they are wanted; all modules move to the device."""
    if not run.from_nothing and bundled(file):
        _fill(modules[part], file)
    modules.to(run.device)


def _vae(run: Run, minutes: float) -> bool:
    from .vae_stage import VaeLoss, build, full_state

    modules = build().to(run.device)
    trainer = run.trainer("vae", modules, VaeLoss(modules, run.pool()), minutes, lr=5e-4, average=0.995)
    if finished := trainer.run():
        write("vae", full_state(trainer.averaged.cpu()))
    return finished


def _decoder(run: Run, minutes: float) -> bool:
    from .decoder_stage import DecoderLoss, build

    vae = load_vae()
    modules = build(vae)
    vae.to(run.device)
    trainer = run.trainer("decoder", modules, DecoderLoss(vae, run.pool()), minutes, lr=5e-4, average=0.998)
    if finished := trainer.run():
        own = {f"decoder.{key}": value for key, value in trainer.averaged["decoder"].cpu().state_dict().items()}
        write("vae", read("vae") | own)
    return finished


def _clip(run: Run, minutes: float) -> bool:
    from .clip_stage import ClipLoss, ClipModules

    modules = ClipModules().to(run.device)
    trainer = run.trainer("clip", modules, ClipLoss(modules, run.pool()), minutes, lr=1e-3, average=0.998)
    if finished := trainer.run():
        write("text", trainer.averaged["text"].state_dict())
        _ship_clip(trainer.averaged)
    return finished


def _ship_clip(modules: Any) -> None:
    write("clip_text", modules["text"].state_dict())
    write("clip_image", modules["image"].state_dict())
    write("clip_scale", {"logit_scale": modules.logit_scale.detach().reshape(1)})


def _measure(run: Run, minutes: float) -> bool:
    from .clip_stage import ClipLoss, ClipModules

    modules = ClipModules()
    for part, name in (("text", "clip_text"), ("image", "clip_image")):
        _fill(modules[part], name)
    modules.logit_scale.data.copy_(read("clip_scale")["logit_scale"].float()[0])
    modules.to(run.device)
    loss = ClipLoss(modules, run.pool(), seed=4, style_share=0.5)
    trainer = run.trainer("measure", modules, loss, minutes, lr=7e-4, average=0.998)
    if finished := trainer.run():
        _ship_clip(trainer.averaged)
    return finished


def _classifier(run: Run, minutes: float) -> bool:
    from ..classifier import Classifier
    from .classifier_stage import ClassifierLoss

    network = Classifier()
    modules = nn.ModuleDict({"classifier": network})
    _start_from_shipped(modules, "classifier", "classifier", run)
    loss = ClassifierLoss(network, run.pool())
    trainer = run.trainer("classifier", modules, loss, minutes, lr=1e-3, average=0.998)
    if finished := trainer.run():
        write("classifier", trainer.averaged["classifier"].state_dict())
    return finished


def _photo_classifier(run: Run, minutes: float) -> bool:
    """Starts from the first classifier, unless there is one of its own to go on with."""
    from ..classifier import Classifier
    from .classifier_stage import PHOTOS, ClassifierLoss

    network = Classifier()
    own = bundled("photo_classifier") and not run.from_nothing
    _fill(network, "photo_classifier" if own else "classifier")
    modules = nn.ModuleDict({"classifier": network}).to(run.device)
    loss = ClassifierLoss(network, run.pool(), photos=PHOTOS)
    trainer = run.trainer("photo-classifier", modules, loss, minutes, lr=1e-3, average=0.998)
    if finished := trainer.run():
        write("photo_classifier", trainer.averaged["classifier"].state_dict())
    return finished


def _sam(run: Run, minutes: float) -> bool:
    from ..tiny_sam import FILE
    from .sam_stage import SamLoss, build

    modules = build()
    _start_from_shipped(modules, "sam", FILE, run)
    trainer = run.trainer("sam", modules, SamLoss(modules, run.pool()), minutes, lr=6e-4, average=0.998)
    if finished := trainer.run():
        write(FILE, trainer.averaged["sam"].state_dict())
    return finished


def _unet(run: Run, minutes: float) -> bool:
    from .latents import grid_masks, latent_file
    from .unet_stage import UnetLoss, build

    pool, vae = run.pool(), load_vae().to(run.device)
    latents = latent_file(run.folder / "latents.npy", vae, pool, POOL_SIZE)
    modules, (tower, _) = build(), load_text_tower()
    _start_from_shipped(modules, "unet", "unet", run)
    # The words are bound by many updates rather than by large batches; a GPU has room for both.
    size = 64 if run.device.type == "cuda" else 16
    masks = grid_masks(pool, POOL_SIZE)
    loss = UnetLoss(modules["unet"], tower.to(run.device), latents, masks, pool.facts, size=size)
    trainer = run.trainer("unet", modules, loss, minutes, lr=6e-4, average=0.998)
    if finished := trainer.run():
        write("unet", trainer.averaged["unet"].state_dict())
    return finished


def _editing(run: Run, minutes: float) -> bool:
    from ..editing import NAME

    setting = editing_setting(run)
    adapter = setting.adapter
    _start_from_shipped(nn.ModuleDict({NAME: adapter}), NAME, NAME, run)
    modules = nn.ModuleDict({NAME: adapter})
    trainer = run.trainer(NAME, modules, setting.loss(), minutes, lr=1e-3, weight_decay=0.0, average=0.995)
    with adapter.attached(setting.unet):
        finished = trainer.run()
    if finished:
        averaged: Any = trainer.averaged[NAME]
        write(NAME, averaged.tensors())
    return finished


@dataclass(frozen=True, eq=False)
class EditingSetting:
    """What the adapter is trained with: the frozen denoiser, the text tower, and exact pairs."""

    unet: Any
    adapter: Any
    tower: Any
    source: Any
    edited: Any
    masks: Any
    facts: list[dict]

    def loss(self, **options: Any) -> Any:
        from .editing_stage import EditingLoss

        parts = (self.unet, self.adapter, self.tower, self.source, self.edited, self.masks, self.facts)
        return EditingLoss(*parts, **options)


def editing_setting(run: Run) -> EditingSetting:
    """A new adapter on the shipped denoiser, and `EDITING_PAIRS` pairs, made now unless the run's folder has them."""
    from ..editing import EditingAdapter
    from .editing_stage import edited_latents
    from .latents import grid_masks, latent_file

    # channels_last: the autoencoder is the longest part of making pairs, and half as fast again so
    pool = open_pool(run.folder / "pool", EDITING_PAIRS)
    vae = load_vae().to(run.device, memory_format=torch.channels_last)
    source = latent_file(run.folder / "latents-source.npy", vae, pool, EDITING_PAIRS)
    edited = edited_latents(run.folder / "latents-editing.npy", vae, pool, EDITING_PAIRS)
    unet, (tower, _) = new_unet(), load_text_tower()
    _fill(unet, "unet")
    unet.eval().requires_grad_(False).to(run.device)
    adapter = EditingAdapter(unet, seed=run.seed).requires_grad_(True).to(run.device)
    masks = grid_masks(pool, EDITING_PAIRS)
    return EditingSetting(unet, adapter, tower.to(run.device), source, edited, masks, pool.facts)


def _expert(name: str, style: str, run: Run, minutes: float) -> bool:
    from .experts_stage import (
        SHIPPED_AT,
        ExpertLoss,
        LoraParameters,
        add_lora,
        lora_state,
        save_expert_file,
        start_from,
    )
    from .latents import latent_file

    pool, vae = run.pool(), load_vae().to(run.device)
    source = latent_file(run.folder / "latents.npy", vae, pool, EXPERT_PICTURES)
    styled = latent_file(
        run.folder / f"latents-{style_slug(style)}.npy",
        vae,
        pool,
        EXPERT_PICTURES,
        lambda image: apply_style(image, style),
    )
    unet, (tower, _) = new_unet(), load_text_tower()
    _fill(unet, "unet")
    add_lora(unet, run.seed).to(run.device)
    if not run.from_nothing and expert_path(style).exists():
        start_from(unet, expert_path(style))
    modules = nn.ModuleDict({"lora": LoraParameters(unet)})
    loss = ExpertLoss(unet, tower.to(run.device), source, styled, pool.facts, style)
    trainer = run.trainer(name, modules, loss, minutes, lr=2e-3, weight_decay=0.0, average=0.99)
    if finished := trainer.run():
        for kept, now in zip(trainer.averaged.parameters(), modules.parameters(), strict=True):
            now.data.copy_(kept)
        save_expert_file(lora_state(unet, SHIPPED_AT.get(style, 1.0)), style, expert_path(style))
    return finished
