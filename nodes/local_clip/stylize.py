"""Local CLIP style on pictures: each region optimised towards the words for its style, everything else left alone.

Source: LEAST, arXiv:2405.16330, section 3.2; several regions as its equation for them says, each in the result so far,
or together in one optimisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..engine.errors import is_cancel, wrong_input
from ..engine.host.base import Host
from ..engine.region.enlarged import enlarged_note
from ..engine.region.region import Region
from ..engine.region.regions import Regions
from .canvases import Canvas, LatentCanvas, LatentCoder, NetworkCanvas, PixelCanvas
from .differentiable import differentiable
from .directions import style_direction
from .frames import adjusted_contrast, frame_of, put_back
from .networks import LocalClipNetworks
from .objective import RegionObjective, imagenet_normalised
from .optimise import History, LocalOptimisation
from .presets import IMPROVED
from .settings import LABEL, LocalClipSettings
from .style_network import GRID, StyleNetwork, new_style_network

Shown = Callable[[Tensor], Tensor]  # a frame as its composite
FRAMES = 8  # pictures of the progression strip, at most


@dataclass(frozen=True, eq=False)
class LocalStyled:
    """images `[B,3,H,W]`; masks `[B,H,W]`, the composited ones: where they are 0 nothing has changed; frames: the first
    picture's regions now and then, `[3,h,w]`; history: its losses; notice: how it was made; warning: what it lacks,
    since it was cancelled, or worked on much smaller than it is; "" where it lacks nothing; stopped: whether it was
    cancelled, so that this is the best so far."""

    images: Tensor
    masks: Tensor
    frames: list[Tensor]
    history: History
    notice: str = ""
    warning: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class LocalClip:
    """networks: what judges; host: where they run; coder: the autoencoder, for `optimise` "latent"."""

    networks: LocalClipNetworks
    host: Host
    coder: LatentCoder | None = None


def stylize_local(
    images: Tensor, regions: Regions, by: LocalClip, settings: LocalClipSettings, start: Tensor | None = None
) -> LocalStyled:
    """Give the regions of images `[B,3,H,W]` in 0..1 the styles they carry.

    start `[1 or B,3,H,W]`: what the regions are at first, another method's result for example (None: as the settings
    say). Regions with an empty mask are left out. Shows previews and can be cancelled at every iteration; with
    `keep_best` that ends the run, and the best picture so far counts. Cancelled before the second
    iteration there is none yet: it raises.

    RegionStyleError, before anything is optimised, for a style that is empty, too long or no style to CLIP, images of
    another size than the regions' or the start's, and settings that do not fit each other.
    """
    _check(images, regions, by, settings, start)
    coder = by.coder if settings.optimise == "latent" else None
    with differentiable(by.host, by.networks.modules, None if coder is None else coder.patcher) as patcher:
        by = replace(by, coder=coder.on(patcher) if coder is not None and patcher is not None else coder)
        run = _Run(images.clone(), regions, by, settings, None if start is None else start.clone())
        return run.all_pictures()


def _check(images: Tensor, regions: Regions, by: LocalClip, settings: LocalClipSettings, start: Tensor | None) -> None:
    size = (len(images), *images.shape[-2:])
    if (regions.batch, regions.height, regions.width) != size:
        got = f"those of {regions.batch} pictures of {regions.width} x {regions.height}"
        accepts = f"regions of {size[0]} pictures of {size[2]} x {size[1]} pixels, as the image"
        raise wrong_input("regions", got, accepts, "Make the regions from this image.")
    if start is not None and (start.shape[1:] != images.shape[1:] or len(start) not in (1, len(images))):
        accepts = f"one picture, or {len(images)}, of the image's size"
        raise wrong_input("start", f"shape {list(start.shape)}", accepts, "Connect a result of the same picture.")
    if start is not None and settings.start != "picture":
        raise wrong_input("start", "a start image and 'noise'", "one of them", "Set start to 'picture'.")
    if settings.optimise == "latent" and by.coder is None:
        raise wrong_input("optimise", "'latent' without a VAE", "a VAE", "Connect one, or optimise the pixels.")
    if settings.next_iterations and settings.optimise != "network":
        accepts = "0, since only a network can go on with another picture"
        raise wrong_input("next_iterations", settings.next_iterations, accepts, "Set it to 0.")
    _check_patience(settings)


def _check_patience(settings: LocalClipSettings) -> None:
    """RegionStyleError for a patience where no patch can ever be satisfied."""
    if settings.patience and not (settings.satisfied and settings.weight("patch")):
        never = "threshold 0" if settings.weight("patch") else "patch_weight 0"
        accepts = f"0, since with {never} (preset {settings.preset.name!r}) no patch is ever satisfied"
        raise wrong_input("patience", settings.patience, accepts, "Set it to 0, or threshold and patch_weight higher.")


@dataclass
class _Run:
    """One call: its pictures, and what goes on from one to the next."""

    images: Tensor
    regions: Regions
    by: LocalClip
    settings: LocalClipSettings
    start: Tensor | None
    frames: list[Tensor] = field(default_factory=list)
    history: History = field(default_factory=History)
    stopped: str = ""
    left: list[str] = field(default_factory=list)
    done: int = 0
    finished: int = 0
    enlarged: float = 1.0

    def __post_init__(self) -> None:
        clip, preset = self.by.networks.clip, self.settings.preset
        styles = dict.fromkeys(region.style for region in self.regions if bool((region.mask > 0).any()))
        self._directions = {style: style_direction(clip, style, preset) for style in styles}
        self._painters: dict[int, StyleNetwork] = {}

    def all_pictures(self) -> LocalStyled:
        """Every picture in its turn."""
        runs = [self._groups(index) for index in range(len(self.images))]
        total = sum(self._iterations(index) * len(groups) for index, groups in enumerate(runs))
        self._progress = self.by.host.progress(max(total, 1), LABEL)
        made = [self._picture(index, groups) for index, groups in enumerate(runs)]
        images, masks = (torch.cat(each) for each in zip(*made, strict=True))
        stopped = bool(self.stopped)
        return LocalStyled(images, masks, self.frames, self.history, self._notice(), self._warning(), stopped)

    def _groups(self, index: int) -> list[list[Region]]:
        """The regions of a picture that are optimised at once: each by itself, or all of them."""
        there = [region for region in self.regions.of_image(index) if bool((region.mask > 0).any())]
        if self.settings.order == "in turn":
            return [[region] for region in there]
        apart = [region for region in _disjoint(there) if bool((region.mask > 0).any())]
        return [apart] if apart else []

    def _iterations(self, index: int) -> int:
        following = index > 0 and self.settings.next_iterations
        return self.settings.next_iterations if following else self.settings.iterations

    def _picture(self, index: int, groups: Sequence[Sequence[Region]]) -> tuple[Tensor, Tensor]:
        """One picture `[1,3,H,W]` and what was blended in, `[1,H,W]`."""
        image, mask = self.images[index : index + 1], torch.zeros(1, *self.images.shape[-2:])
        for number, group in enumerate(groups):
            try:
                if not self.stopped:
                    image, blended = self._group(image, group, index, number, len(groups))
                    mask = torch.maximum(mask, blended.float().cpu())
                    self.finished += 1
                    continue
            except BaseException as error:
                if not (self.finished and self._kept(error)):
                    raise
                self.stopped = "cancelled: what was finished is kept"
            of_picture = f" of picture {index + 1}" if len(self.images) > 1 else ""
            self.left += [f"{region.phrase}{of_picture}" for region in group]
        return image, mask

    def _kept(self, error: BaseException) -> bool:
        """Whether an error is a cancel after which what there is so far counts."""
        return is_cancel(error) and self.settings.keep_best

    def _group(
        self, image: Tensor, group: Sequence[Region], index: int, number: int, groups: int
    ) -> tuple[Tensor, Tensor]:
        """Some regions of a picture in one optimisation."""
        networks, settings, device = self.by.networks, self.settings, self.by.host.device
        masks = [region.mask.float().cpu() for region in group]
        union = torch.stack(masks).amax(0)
        frame = frame_of(union, settings.size or networks.native, settings, self._grid())
        self.enlarged = max(self.enlarged, frame.enlarged)
        picture = frame.cut(image).float().to(device)
        first = self._begun(image, union, index)
        begun = frame.cut(first).float().to(device)
        random = torch.Generator().manual_seed(settings.seed)
        objectives = [
            RegionObjective(
                networks, picture, frame.cut_mask(mask), self._directions[region.style], settings, self.by.host, random
            )
            for mask, region in zip(masks, group, strict=True)
        ]
        run = LocalOptimisation(self._canvas(begun, index, number), objectives, settings, self._history_of(index))
        inside = frame.cut_mask(union).to(picture)
        kept = max(2, FRAMES // groups) if index == 0 else 0
        worked = self._optimised(run, lambda made: torch.lerp(picture, made, inside), self._iterations(index), kept)
        worked = adjusted_contrast(worked, settings.preset.contrast)
        base = image if self.start is None else first  # noise has no detail worth keeping
        result, blended = put_back(frame, image, base, worked.to(image), union.to(image), settings)
        return result, blended.cpu()

    def _grid(self) -> int:
        """What the sides of a frame are multiples of."""
        return GRID if self.by.coder is None else math.lcm(GRID, self.by.coder.factor)

    def _history_of(self, index: int) -> History:
        return self.history if index == 0 else History()

    def _begun(self, image: Tensor, mask: Tensor, index: int) -> Tensor:
        """The picture `[1,3,H,W]` as the region is at first."""
        mask = mask.to(image)
        if self.start is not None:
            return torch.lerp(image, self.start[index % len(self.start)][None].to(image), mask)
        if self.settings.start == "picture":
            return image
        random = torch.Generator().manual_seed(self.settings.seed)
        return torch.lerp(image, torch.rand(image.shape, generator=random).to(image), mask)

    def _canvas(self, begun: Tensor, index: int, number: int) -> Canvas:
        """What is optimised. number: of the group in its picture, by which networks go on to the next picture."""
        if self.settings.optimise == "pixels":
            return PixelCanvas(begun)
        if self.settings.optimise == "latent" and self.by.coder is not None:
            return LatentCanvas(self.by.coder, begun)
        if not (index and self.settings.next_iterations and number in self._painters):
            self._painters[number] = new_style_network(self.settings.seed).to(begun.device)
        source = imagenet_normalised(begun) if self.settings.preset.content_scale == "twice" else begun
        return NetworkCanvas(self._painters[number], source)

    def _optimised(self, run: LocalOptimisation, shown: Shown, iterations: int, kept: int) -> Tensor:
        """All iterations, or fewer when it is finished or cancelled; the picture `[1,3,h,w]`."""
        marks = {round(iterations * i / (kept - 1)) for i in range(kept - 1)} if kept else set()
        try:
            for index in range(iterations):
                self._report(run, shown, index in marks)
                run.step()
                self.done += 1
                if run.finished:
                    break
        except BaseException as error:
            # Of one iteration the best is what it began with, which is nobody's result.
            if run.iteration < 2 or not self._kept(error):
                raise
            self.stopped = f"cancelled after {run.iteration} of {iterations} iterations: the best picture so far"
        result = run.best if self.stopped and run.best is not None else run.picture()
        if kept:
            self.frames.append(shown(result)[0].clamp(0, 1).cpu())
        return result

    @torch.no_grad()
    def _report(self, run: LocalOptimisation, shown: Shown, mark: bool) -> None:
        """Progress with a preview now and then; raises when the user has cancelled."""
        preview = None
        if mark or self.done % self.settings.preview_every == 0:  # of the run, as the progress counts
            preview = shown(run.picture())[0].clamp(0, 1).cpu()
        if mark and preview is not None:
            self.frames.append(preview)
        self._progress.update(self.done, preview)

    def _notice(self) -> str:
        """How far it came, and by whose judgement; that it was cancelled is the warning's to say."""
        lines = [f"{self.done} iterations", f"judged by {self.by.networks.name}"]
        easy = self.by.networks.clip.name.endswith("-tiny") and self.settings.satisfied >= IMPROVED.threshold
        return "; ".join([*lines, "which is soon satisfied: preset improved-tiny goes further"] if easy else lines)

    def _warning(self) -> str:
        """What the result lacks."""
        size, detail = self.settings.size or self.by.networks.native, "fine detail"
        lost = detail if self.settings.preset.enlarge == "picture" else f"{detail} of the style"
        left = f"not restyled: {', '.join(self.left)}" if self.left else ""
        return "; ".join(
            filter(None, [self.stopped, left, enlarged_note(self.enlarged, size, "Set size higher.", lost)])
        )


def _disjoint(regions: Sequence[Region]) -> list[Region]:
    """The regions with what later ones cover taken from earlier ones."""
    result, above = [], None
    for region in reversed(regions):
        mask = region.mask.float().cpu()
        own = mask if above is None else mask * (1 - above)
        above = mask if above is None else torch.maximum(above, mask)
        result.append(replace(region, mask=own))
    return result[::-1]
