"""R2R's parts and its whole inference beside a plain transcription: python tests/bench/bench_r2r.py [--side 256]

The transcription does what the published program does: nine depthwise convolutions per adaptive filter, all twelve
features raw and filtered at once, the composite encoded twice, the hint embedded at every step, attention over masks by
convolutions over the whole map. Networks are R2R's at a quarter of its width, with random weights; both give the same
picture, which is checked first. Times are the median of three runs, memory is what torch's operations hold at most,
the weights not included. Not a test: nothing here fails but a difference.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from bench_main import median_seconds
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from live_memory import LiveBytes  # noqa: E402

from regionstyle.kernels.filters import _BANK, _STEP, _gaussian  # noqa: E402
from regionstyle.nodes.engine.host.base import LocalHost  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.adaptive_filter import AdaptiveFilter  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.architecture import SCALING, Architecture  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.hint import hint_of, resized_mask  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.maca import Maca  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.networks import R2RNetworks, new_networks  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.pipeline import R2RHarmonizer, predicted_noise  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.schedule import euler_step, noise_levels, scaled_input  # noqa: E402
from regionstyle.nodes.harmonizer.r2r.settings import R2RSettings  # noqa: E402

QUARTER = Architecture((32, 64, 128, 128), (80, 160, 320, 320), (8, 16, 32, 64), text_width=192, heads=8, groups=16)


def nine_filters(filter: AdaptiveFilter, x: Tensor) -> Tensor:
    """The bank as it is published: eight depthwise 3 x 3 and a 15 x 15 convolution."""
    channels = x.shape[1]
    total = filter.beta * x
    for weight, numbers in zip(filter.alpha[:8], _BANK, strict=True):
        kernel = (_STEP * torch.tensor(numbers, dtype=x.dtype)).view(1, 1, 3, 3).expand(channels, 1, 3, 3)
        total = total + weight * F.conv2d(x, kernel, padding=1, groups=channels)
    g = _gaussian(x)
    blur = torch.outer(g, g).expand(channels, 1, 15, 15)
    return total + filter.alpha[8] * (x - F.conv2d(F.pad(x, [7] * 4, mode="reflect"), blur, groups=channels))


def full_maps(maca: Maca, x: Tensor, mask: Tensor) -> Tensor:
    """Mask-aware attention by its definition."""
    inside, outside = maca.conv1(mask * x).mean((2, 3)), maca.conv2((1 - mask) * x).mean((2, 3))
    scale, shift = maca.mlp(torch.cat([inside, outside], 1))[:, :, None, None].chunk(2, 1)
    return (1 - mask) * x + mask * ((1 + scale) * (mask * x) + shift)


class FullMaps(torch.nn.Module):
    """A `Maca` in its plain form."""

    def __init__(self, maca: Maca) -> None:
        super().__init__()
        self.maca = maca

    def forward(self, x: Tensor, mask: Tensor, background: Tensor | None = None) -> Tensor:
        return full_maps(self.maca, x, mask)


def plain_decode(networks: R2RNetworks, latent: Tensor, picture: Tensor) -> Tensor:
    vae = networks.vae
    raw = vae.encode(picture).features
    filtered = [nine_filters(filter, feature) for filter, feature in zip(vae.filters, raw, strict=True)]
    x = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(latent)))
    number = len(filtered)
    for up in vae.decoder.up_blocks:
        for block in up.resnets:
            number -= 1
            a, feature = F.silu(block.norm1(x)), filtered[number]
            feature = feature.repeat(1, a.shape[1] // feature.shape[1], 1, 1)
            u = block.conv1(a) + block.skip_connect.conv(a + feature)
            y = block.conv2(F.silu(block.norm2(u)))
            x = (x if block.conv_shortcut is None else block.conv_shortcut(x)) + y
        for upsampler in up.upsamplers or []:
            x = upsampler(x)
    return vae.decoder.conv_out(F.silu(vae.decoder.conv_norm_out(x)))


@torch.no_grad()
def plain(networks: R2RNetworks, composite: Tensor, mask: Tensor, steps: int) -> Tensor:
    """The published inference, step by step."""
    random, size = torch.Generator().manual_seed(0), tuple(side // 8 for side in composite.shape[-2:])
    levels, controller, text = noise_levels(steps), networks.controller, networks.empty_prompt
    x = torch.randn(1, 4, *size, generator=random) * float(levels.sigmas[0])
    picture = composite * 2 - 1
    condition = networks.vae.encode(picture).posterior.sample(random) * SCALING
    small, hint = resized_mask(mask, size), hint_of(composite, mask, tuple(composite.shape[-2:]))
    for number, t in enumerate(levels.timesteps.tolist()):
        sigma, following = levels.sigmas[number : number + 2].tolist()
        control = controller(controller.embed_hint(hint), t, text, small)
        eps = predicted_noise(networks.unet, torch.cat([scaled_input(x, sigma), small, condition], 1), t, text, control)
        x = euler_step(x, eps, sigma, following, torch.randn(x.shape, generator=random))
    return (plain_decode(networks, x / SCALING, picture) / 2 + 0.5).clamp(0, 1)


def networks_with_weights() -> R2RNetworks:
    """Random ones, none of them zero."""
    networks = new_networks(QUARTER).frozen()
    for part in (networks.vae, networks.unet, networks.controller):
        for name, parameter in part.named_parameters():
            if not parameter.any() and not name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
    return networks


def compare(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], tolerance: float) -> str:
    """One line of the table; SystemExit where the two differ."""
    cpu, seconds, bytes_held = torch.device("cpu"), [], []
    if (difference := float((ours() - theirs()).abs().max())) > tolerance:
        raise SystemExit(f"{name}: differs by {difference}")
    for call in (theirs, ours):
        seconds.append(median_seconds(call, cpu, runs=3))
        with LiveBytes() as counted:
            call()
        bytes_held.append(counted.peak / 2**20)
    times = f"{seconds[0]:9.3f} {seconds[1]:9.3f} {seconds[0] / seconds[1]:7.1f}"
    return f"{name:<44} {times} {bytes_held[0]:9.0f} {bytes_held[1]:9.0f} {bytes_held[1] / bytes_held[0]:7.2f}\n"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    networks, side = networks_with_weights(), args.side
    random = torch.Generator().manual_seed(0)
    composite = F.interpolate(torch.rand(1, 3, 8, 8, generator=random), (side, side), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : -side // 4] = 1
    feature, half = torch.randn(1, 128, side, side), resized_mask(mask, (64, 64))
    filter, maca, maps = networks.vae.filters[0], networks.controller.PCCAs[2], torch.randn(1, 320, 64, 64)
    picture, latent = composite * 2 - 1, torch.randn(1, 4, side // 8, side // 8)
    decoded = networks.vae
    sys.stdout.write(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    sys.stdout.write(f"{'':<44} plain (s)  ours (s)   times  plain MB   ours MB   share\n")
    rows = {
        f"adaptive filter, 128 channels, {side} px": (lambda: filter(feature), lambda: nine_filters(filter, feature)),
        "mask-aware attention, 320 channels, 64 x 64": (lambda: maca(maps, half), lambda: full_maps(maca, maps, half)),
        "decoding with detail, one encoding included": (
            lambda: decoded.decode(latent, decoded.encode(picture).features),
            lambda: plain_decode(networks, latent, picture),
        ),
    }
    for name, (ours, theirs) in rows.items():
        sys.stdout.write(compare(name, ours, theirs, 1e-3))
        sys.stdout.flush()
    sys.stdout.write(compare_whole(networks, composite, mask, args.steps))


def compare_whole(networks: R2RNetworks, composite: Tensor, mask: Tensor, steps: int) -> str:
    """The whole inference; the plain one with attention by full maps."""
    ours = R2RHarmonizer(networks, LocalHost("cpu"), R2RSettings(steps=steps, resolution=0))
    kept, controller = networks.controller.PCCAs, networks.controller

    def theirs() -> Tensor:
        controller.PCCAs = torch.nn.ModuleList(FullMaps(maca) for maca in kept)
        try:
            return plain(networks, composite, mask, steps)
        finally:
            controller.PCCAs = kept

    return compare(f"harmonising, {steps} steps", lambda: ours.harmonize(composite, mask), theirs, 1e-2)


if __name__ == "__main__":
    main()
