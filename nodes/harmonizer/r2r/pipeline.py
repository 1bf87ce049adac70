"""R2R's sampler (arXiv:2508.09746): a composite and its mask to a harmonised picture.

Noise, conditioned on composite, mask and hint, is brought to a latent in ten Euler steps; the Clear-VAE decodes it with
the composite's detail. Every picture of a batch is made as if it were alone, with the same seed. Random draws, in the
published order: start noise, latent of the composite, one per step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...engine.host.memory import with_halving
from ..base import OnStep, check_composite, check_has_surroundings, check_picture, check_region
from .architecture import FACTOR, GRID, LATENT_CHANNELS, SCALING
from .autoencode import Autoencoding, tile_for
from .hint import hint_of, latent_mask, resized, resized_mask
from .networks import R2RNetworks
from .schedule import euler_step, noise_levels, scaled_input
from .settings import SMALLEST_TILE, R2RSettings

if TYPE_CHECKING:
    from .controller import Residuals


# A reference counts as if it filled the composite's background, but at least this share of the picture: a foreground
# that fills the frame leaves no background to stand in for.
LEAST_SHARE = 0.5


class R2RHarmonizer:
    """A `Harmonizer` made of R2R's networks."""

    def __init__(self, networks: R2RNetworks, host: Host, settings: R2RSettings | None = None) -> None:
        """RegionStyleError for settings with a controller and networks without one."""
        self.networks, self.host, self.settings = networks.frozen(), host, settings or R2RSettings()
        if self.settings.controller and networks.controller is None:
            accepts = "networks with a controller, or controller=False"
            raise wrong_input("networks", "no Harmony Controller", accepts, "Load its file too.")

    def with_settings(self, **changes: Any) -> R2RHarmonizer:
        """The same networks with other settings."""
        return R2RHarmonizer(self.networks, self.host, replace(self.settings, **changes))

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width a picture of a height and width is worked on at."""
        return working_size(size, self.settings)

    @torch.no_grad()
    def harmonize(
        self,
        composite: Tensor,
        mask: Tensor,
        *,
        reference: Tensor | None = None,
        reference_mask: Tensor | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """As `Harmonizer.harmonize` says, on the CPU. A mask below 0.5 everywhere leaves its picture as it is.

        reference: the controller's attention takes the background's statistics from it instead.
        RegionStyleError for shapes or values that do not fit, a mask that leaves no background where there is no
        reference, and a reference without a controller that could use it.
        """
        check_composite(composite, mask)
        self._check_reference(reference, reference_mask)
        if reference is None:
            check_has_surroundings(mask)
        report = _Report(self, on_step, sum(bool((each >= 0.5).any()) for each in mask))
        return torch.stack([
            self._one(composite[i : i + 1], mask[i : i + 1], reference, reference_mask, seed, report)[0]
            if bool((mask[i] >= 0.5).any()) else composite[i].float().cpu()
            for i in range(len(composite))
        ])  # fmt: skip

    def _check_reference(self, reference: Tensor | None, region: Tensor | None) -> None:
        if reference is None:
            if region is not None:
                raise wrong_input("reference_mask", "a mask without a reference", "both, or none", "Connect both.")
            return
        if not self.settings.controller:
            raise wrong_input("reference", "one without a controller", "none", "Only the controller looks at it.")
        check_picture(reference, "reference")
        if len(reference) != 1:
            raise wrong_input("reference", f"{len(reference)} pictures", "one", "Choose one of them.")
        if region is not None:
            check_region(region, reference, "reference_mask")
            if not bool((region >= 0.5).any()):
                raise wrong_input("reference_mask", "an empty mask", "a region", "Mask the region to learn from.")

    def _one(
        self, composite: Tensor, mask: Tensor, reference: Tensor | None, region: Tensor | None, seed: int,
        report: _Report,
    ) -> Tensor:  # fmt: skip
        size = self.working_size(_sides(composite))
        dtype = next(self.networks.vae.parameters()).dtype

        def work(tile: int) -> Tensor:
            report.again()
            picture = _Sampling(self, composite, mask, reference, region, size, tile, report).run(seed)
            return with_fine_part(picture.float().cpu(), composite.float().cpu())

        tile = tile_for(size, self.settings.tile, dtype)
        result = with_halving(work, tile, host=self.host, name="R2R", smallest=min(SMALLEST_TILE, tile), multiple=GRID)
        report.finished()
        return result


class _Report:
    """Steps done and in all; a picture that is begun again, because memory ran out, counts once."""

    def __init__(self, harmonizer: R2RHarmonizer, on_step: OnStep | None, pictures: int) -> None:
        self._steps, self._pictures = harmonizer.settings.steps, pictures
        self._on_step, self._host = on_step, harmonizer.host
        self._before = self._done = 0

    def again(self) -> None:
        self._done = self._before

    def finished(self) -> None:
        self._before = self._done

    def step(self) -> None:
        self._done += 1
        self._host.check()
        if self._on_step is not None:
            self._on_step(self._done, self._steps * self._pictures, None)


@dataclass(eq=False)
class _Sampling:
    """One picture at its working size; reference and region: None, or one picture and its mask (None: all of it)."""

    harmonizer: R2RHarmonizer
    composite: Tensor
    mask: Tensor
    reference: Tensor | None
    region: Tensor | None
    size: tuple[int, int]
    tile: int
    report: _Report

    def run(self, seed: int) -> Tensor:
        """`[1,3,h,w]` in about 0..1."""
        networks, host = self.harmonizer.networks, self.harmonizer.host
        generator = torch.Generator().manual_seed(seed)
        grid = (1, LATENT_CHANNELS, self.size[0] // FACTOR, self.size[1] // FACTOR)
        noise = torch.randn(grid, generator=generator).to(host.device)
        host.load(networks.vae)
        settings = self.harmonizer.settings
        picture = resized(self.composite, self.size).to(host.device) * 2 - 1
        coded = Autoencoding(networks.vae, picture, self.tile, clear=settings.clear)
        condition = coded.posterior.sample(generator).float() * SCALING
        latent = self._sampled(noise, condition, generator)
        host.load(networks.vae)
        return coded.decode(latent / SCALING) / 2 + 0.5

    def _sampled(self, noise: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        networks, host, settings = self.harmonizer.networks, self.harmonizer.host, self.harmonizer.settings
        host.load(*(n for n in (networks.unet, networks.controller if settings.controller else None) if n is not None))
        dtype = next(networks.unet.parameters()).dtype
        text = networks.empty_prompt.to(host.device, dtype)
        mask = latent_mask(self.mask, self.size, _sides(noise)).to(host.device)
        levels = noise_levels(settings.steps)
        x = noise * float(levels.sigmas[0])
        controls = self._controls(levels.timesteps, text, mask.to(dtype))
        for (sigma, following), t in zip(pairwise(levels.sigmas.tolist()), levels.timesteps, strict=True):
            given = torch.cat([scaled_input(x, sigma), mask, condition], 1).to(dtype)
            eps = predicted_noise(networks.unet, given, float(t), text, next(controls))
            drawn = torch.randn(x.shape, generator=generator).to(x) if settings.sampler == "euler ancestral" else None
            x = euler_step(x, eps.float(), sigma, following, drawn)
            self.report.step()
        return x

    def _controls(self, timesteps: Tensor, text: Tensor, mask: Tensor) -> Iterator[Residuals | None]:
        """The controller's output for each timestep. Hints are embedded once: they are the same at every step."""
        controller = self.harmonizer.networks.controller
        if not self.harmonizer.settings.controller or controller is None:
            yield from (None for _ in timesteps)
            return
        embedded = controller.embed_hint(self._on_device(hint_of(self.composite, self.mask, self.size), text))
        reference = self._embedded_reference(text)
        background = 1 - resized_mask(self.mask, self.size).mean((1, 2, 3)).to(text.device)
        share = background.clamp_min(LEAST_SHARE)
        for t in timesteps.tolist():
            given = None if reference is None else controller.backgrounds(reference[0], t, text, reference[1], share)
            yield controller(embedded, t, text, mask, given)

    def _embedded_reference(self, text: Tensor) -> tuple[Tensor, Tensor] | None:
        """The reference's hint, its region in the place of a background, and the region at the latent's size."""
        controller = self.harmonizer.networks.controller
        if self.reference is None or controller is None:
            return None
        region = torch.ones_like(self.reference[:, :1]) if self.region is None else self.region
        settings = replace(self.harmonizer.settings, resolution=max(GRID, round(math.sqrt(math.prod(self.size)))))
        size = working_size(_sides(self.reference), settings)
        # 0.5 counts as region, here as in the hint, where it is the other side
        foreground = (region < 0.5).to(region)
        embedded = controller.embed_hint(self._on_device(hint_of(self.reference, foreground, size), text))
        inside = latent_mask(1 - foreground, size, _sides(embedded))
        return embedded, self._on_device(inside, text)

    def _on_device(self, tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.to(like.device, like.dtype)


def predicted_noise(unet: Any, given: Tensor, timestep: Any, text: Tensor, control: Residuals | None) -> Tensor:
    """The U-Net's noise for [scaled noisy latent, mask, latent of the composite] `[B,9,h,w]`, `[B,4,h,w]`."""
    added = {} if control is None else {
        "down_block_additional_residuals": control.down,
        "mid_block_additional_residual": control.mid,
    }  # fmt: skip
    text = text.expand(len(given), -1, -1)
    noise: Tensor = unet(given, timestep, encoder_hidden_states=text, return_dict=False, **added)[0]
    return noise


def with_fine_part(picture: Tensor, composite: Tensor) -> Tensor:
    """A result `[1,3,h,w]` at the composite's size `[1,3,H,W]`, 0..1; with what the composite lost on the way down.

    Light and colours change slowly over a picture, texture stays: the part too fine for the working size is put back.
    """
    size, full = _sides(picture), _sides(composite)
    large = resized(picture, full)
    if full[0] > size[0] or full[1] > size[1]:
        large = large + composite - resized(resized(composite, size), full)
    return large.clamp(0, 1)


def working_size(size: tuple[int, int], settings: R2RSettings) -> tuple[int, int]:
    """Height and width, multiples of 64, a picture of a size is worked on at: about as many pixels as the resolution
    squared, in the picture's shape."""
    side = settings.resolution
    if settings.square:
        return (_on_grid(side), _on_grid(side))
    scale = side / math.sqrt(size[0] * size[1]) if side else 1.0
    return _on_grid(size[0] * scale), _on_grid(size[1] * scale)


def _on_grid(length: float) -> int:
    return max(GRID, round(length / GRID) * GRID)


def _sides(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.shape[-2]), int(tensor.shape[-1])
