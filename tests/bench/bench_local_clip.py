"""One iteration of local CLIP style beside a plain transcription of LEAST's published loop, on the same networks.

python tests/bench/bench_local_clip.py [--runs 2] [--patches 64] [--device cuda] [--half]

Networks of the real sizes (ViT-B/32, VGG-19) with random weights, float32, frame 512 x 512, box 350 x 360, preset
"reference". The transcription crops, distorts and resizes patch by patch through torchvision, lets autograd compute
CLIP's own weight gradients (the published loop does not freeze it), and runs all of VGG-19. Ours freezes the weights,
takes the patches 16 at a time on a CPU, computes CLIP's last layer for the class token alone and VGG-19 up to the layer
that is read. With random weights no patch is satisfied, so the patches that ours would leave out do not count here.

Both run in turn, so that what else the machine does weighs on both; the ratio is the median over these pairs. Times are
processor seconds on a CPU and wall clock on a GPU. Not a test.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.local_clip.canvases import NetworkCanvas
from regionstyle.nodes.local_clip.networks import LocalClipNetworks
from regionstyle.nodes.local_clip.objective import IMAGENET_MEAN, IMAGENET_STD, RegionObjective
from regionstyle.nodes.local_clip.optimise import History, LocalOptimisation
from regionstyle.nodes.local_clip.presets import REFERENCE
from regionstyle.nodes.local_clip.public_networks import ClipFolder, VggContent
from regionstyle.nodes.local_clip.settings import LocalClipSettings
from regionstyle.nodes.local_clip.style_network import new_style_network

BOX, CROP = (80, 76, 430, 436), 100
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def networks(device: torch.device) -> tuple[Any, Any]:
    """A CLIP of ViT-B/32's size and VGG-19's features, with random weights."""
    from torchvision.models import vgg19
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    return CLIPModel(CLIPConfig()).eval().to(device), vgg19(weights=None).features.eval().to(device)


class Published:
    """The published loop, one iteration at a time."""

    def __init__(self, clip: Any, vgg: Any, picture: Tensor, mask: Tensor, direction: Tensor, patches: int) -> None:
        from torchvision import transforms

        self.clip, self.vgg, self.picture, self.mask, self.patches = clip, vgg, picture, mask, patches
        self.direction, self.network = direction, new_style_network(0).to(picture.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4)
        self.crop = transforms.RandomCrop(CROP)
        self.augment = transforms.Compose([
            transforms.RandomPerspective(fill=0, p=1, distortion_scale=0.5), transforms.Resize(224),
        ])  # fmt: skip
        with torch.no_grad():
            self.before, self.masked_before = self.embedded(picture), self.embedded(picture * mask)
            self.maps_before = self.maps(picture)

    def embedded(self, pictures: Tensor) -> Tensor:
        pictures = F.interpolate(pictures, size=224, mode="bicubic")
        shift, scale = (pictures.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        pooled = self.clip.vision_model(pixel_values=(pictures - shift) / scale).pooler_output
        return F.normalize(self.clip.visual_projection(pooled), dim=-1)

    def maps(self, picture: Tensor) -> list[Tensor]:
        x0, y0, x1, y1 = BOX
        x = F.interpolate(picture[..., y0:y1, x0:x1], (512, 512), mode="bilinear")
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        x, found = (x - shift) / scale, []
        for index, layer in enumerate(self.vgg):
            x = layer(x)
            if index in (21, 31):
                found.append(x)
        return found

    def step(self) -> None:
        picture = self.network(self.picture)
        content = sum((a - b).square().mean() for a, b in zip(self.maps(picture), self.maps_before, strict=True))
        x0, y0, x1, y1 = BOX
        inside = picture[..., y0:y1, x0:x1]
        patches = torch.cat([self.augment(self.crop(inside)) for _ in range(self.patches)])
        losses = 1 - F.cosine_similarity(self.embedded(patches) - self.before, self.direction[None])
        losses = torch.where(losses < 0.7, 0, losses)
        moved = self.embedded(picture * self.mask) - self.masked_before
        whole = (1 - F.cosine_similarity(moved, self.direction[None])).mean()
        x = picture * self.mask
        pairs = [(x[..., 1:], x[..., :-1]), (x[:, :, 1:], x[:, :, :-1]), (x[:, :, 1:, :-1], x[:, :, :-1, 1:]),
                 (x[:, :, 1:, 1:], x[:, :, :-1, :-1])]  # fmt: skip
        variation = sum(torch.norm(a - b) for a, b in pairs)
        self.optimizer.zero_grad()
        (1e4 * losses.mean() + 150 * content + 2e-3 * variation + 500 * whole).backward()
        self.optimizer.step()


def ours(
    clip: Any, vgg: Any, picture: Tensor, mask: Tensor, direction: Tensor, settings: LocalClipSettings, host: LocalHost
) -> LocalOptimisation:
    """The same work as this pack does it."""
    towers = ClipFolder(clip, None, MEAN, DEVIATION, "ViT-B/32 of random weights")
    both = LocalClipNetworks(towers, VggContent(vgg))
    random = torch.Generator().manual_seed(0)
    objective = RegionObjective(both, picture, mask[0, 0], direction, settings, host, random)
    canvas = NetworkCanvas(new_style_network(0).to(picture.device), picture)
    return LocalOptimisation(canvas, [objective], settings, History())


def seconds(action: Callable[[], None], device: torch.device) -> float:
    """Processor seconds on a CPU, wall clock on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def pair_of(host: LocalHost, patches: int, *, half: bool = False) -> tuple[Published, LocalOptimisation]:
    """The transcription and ours, on copies of the same networks."""
    clip, vgg = networks(host.device)
    picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1)).to(host.device)
    mask = torch.zeros(1, 1, 512, 512, device=host.device)
    mask[..., BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    direction = F.normalize(torch.randn(512, generator=torch.Generator().manual_seed(2)), dim=0).to(host.device)
    published = Published(clip, copy.deepcopy(vgg).requires_grad_(False), picture, mask, direction, patches)
    settings = LocalClipSettings(preset=REFERENCE, patches=patches, half=half)
    frozen = copy.deepcopy(clip).requires_grad_(False)  # not its layers that the transcription uses
    return published, ours(frozen, vgg.requires_grad_(False), picture, mask, direction, settings, host)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="ours with CLIP in half precision")
    args = parser.parse_args()
    host = LocalHost(args.device)
    published, run = pair_of(host, args.patches, half=args.half)
    pairs = [(seconds(published.step, host.device), seconds(run.step, host.device)) for _ in range(args.runs + 1)][1:]
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    where = platform.processor() or platform.machine()
    print(f"{where}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {args.patches} patches")  # noqa: T201
    print(f"transcription {first:.2f} s   ours {second:.2f} s   {ratio:.2f} times")  # noqa: T201


if __name__ == "__main__":
    main()
