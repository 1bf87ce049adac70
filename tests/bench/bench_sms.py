"""One iteration of SMS beside a plain transcription of the published procedure, in one run on one network.

python tests/bench/bench_sms.py [--network tiny|sd15] [--latent 16] [--runs 5] [--device cuda] [--half]

The transcription keeps two copies of the network (plain with the fake LoRA, and one with the style LoRA merged in),
calls them one after the other with two prompts each, in float32, takes the relevance map through numpy, and runs the
unconditional half of the fake predictor's training pass for nothing. Ours runs on one copy. Both run in turn, iteration
by iteration, so that what else the machine does weighs on both; the ratio is the median over these pairs. The first
table is at float32; `--half` adds ours alone at half precision (bfloat16 on a CPU, float16 on a GPU). sd15 has random
weights. Times are processor seconds on a CPU and wall clock on a GPU. The largest memory is that of a process that runs
one side alone (everything in it: torch itself takes about 400 MiB), or what torch took of the GPU. Not a test.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from regionstyle.kernels import spectrum_distance
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.sms.fake import NAME, init_fake
from regionstyle.nodes.sms.optimise import StyleMatcher
from regionstyle.nodes.sms.presets import REFERENCE
from regionstyle.nodes.sms.score import Prompts
from regionstyle.nodes.sms.settings import SmsSettings
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_components
from regionstyle.nodes.tinyworld.networks import scheduler

WORDS, STRENGTH, TIME = "a picture in watercolor style", 0.8, 0.25
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


def network_of(name: str, device: torch.device) -> tuple[Any, Expert, int]:
    """A denoiser, a style LoRA for it, and its text width."""
    if name == "tiny":
        return load_components().unet.to(device), load_bundled_expert("watercolor"), 128
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with device:  # random values drawn where the network shall be
        network = UNet2DConditionModel(**SD15).eval().requires_grad_(False)
    fresh = init_fake(network, 1)
    random = {k: LoraLayer(v.down, torch.randn_like(v.up) * 1e-3, v.scale) for k, v in fresh.layers.items()}
    return network, Expert("watercolor", random), SD15["cross_attention_dim"]


def prompts_of(width: int, device: torch.device) -> Prompts:
    """Random words: what they say costs nothing."""

    def text(seed: int) -> Text:
        states = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed)).to(device)
        return Text(states, None, [[0] * 77], [[""] * 77], torch.ones(1, 77, dtype=torch.bool))

    return Prompts(text(0), text(1), text(2))


class Transcription:
    """The published iteration, written down plainly."""

    def __init__(self, network: Any, style: Expert, prompts: Prompts, source: Tensor) -> None:
        self.plain, self.styled, self.prompts, self.source = network, copy.deepcopy(network), prompts, source
        for path, layer in style.layers.items():
            weight = self.styled.get_submodule(path).weight
            change = STRENGTH * layer.scale * layer.up.flatten(1) @ layer.down.flatten(1)
            weight.data += change.reshape(weight.shape).to(weight)
        self.stack = ExpertStack(network, [init_fake(network, 0)])
        self.stack.weights.to(source.device)
        self.stack.attach()
        self.parameters = [p.requires_grad_(True) for p in self.stack.parameters(NAME)]
        self.target = torch.nn.Parameter(source.clone())
        self.optimizer = torch.optim.AdamW([self.target], lr=0.1)
        self.fake_optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.0)
        self.abar = scheduler().alphas_cumprod

    def noise(self, network: Any, z: Tensor, t: int, prompt: Text, fake: float) -> tuple[Tensor, Tensor]:
        states = torch.cat([self.prompts.empty.states, prompt.states])
        gates = Gates({NAME: fake}) if network is self.plain else Gates()
        with self.stack.using(gates):
            empty, told = network(torch.cat([z, z]), t, states).sample.chunk(2)
        return empty, told

    def step(self) -> None:
        t = round(TIME * 1000)
        a, eps = float(self.abar[t]), torch.randn_like(self.source)
        weight = (1 - float(self.abar[t - 2])) / (1 - a) * (1 - a / float(self.abar[t - 1]))
        with torch.no_grad():
            z, z_source = (a**0.5 * v + (1 - a) ** 0.5 * eps for v in (self.target, self.source))
            guided = []
            for network, fake in ((self.styled, 0.0), (self.plain, 1.0)):
                empty, told = self.noise(network, z, t, self.prompts.style, fake)
                guided.append(empty + 4.5 * (told - empty))
            empty, told = self.noise(self.plain, z_source, t, self.prompts.edit, 0.0)
            size = (told - empty).mean(1, keepdim=True).abs().cpu().numpy()
            size = (size - size.min()) / (size.max() - size.min())
            pull = torch.from_numpy(size).to(z) * torch.nan_to_num(weight * (guided[0] - guided[1]))
        limit = torch.tensor([float(int(t / 500 * (z.shape[-2] + z.shape[-1] - 2)))])
        loss = 0.5 * (self.target - (self.target - pull).detach()).square().mean()
        loss = loss + 5e-4 * spectrum_distance(self.target, self.source, limit)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        eps = torch.randn_like(self.source)
        noisy = (a**0.5 * self.target + (1 - a) ** 0.5 * eps).detach()
        _, told = self.noise(self.plain, noisy, t, self.prompts.style, 1.0)
        self.fake_optimizer.zero_grad()
        (a * told - a * eps).square().mean().backward()
        self.fake_optimizer.step()


class Side:
    """One way of doing an iteration, attached to its network while it runs."""

    def __init__(self, label: str, step: Callable[[], None], networks: list[Any], attached: Any) -> None:
        self.label, self.step, self.networks, self.attached = label, step, networks, attached

    @property
    def weights_mib(self) -> float:
        return sum(p.numel() * p.element_size() for network in self.networks for p in network.parameters()) / 2**20

    def seconds(self, device: torch.device) -> float:
        """Of one iteration: processor time, which other programs do not lengthen, or wall clock on a GPU."""
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        with self.attached():
            began = clock()
            self.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return clock() - began


def source_of(latent: int, device: torch.device) -> Tensor:
    return torch.randn(1, 4, latent, latent, generator=torch.Generator().manual_seed(3)).to(device)


def transcription(network: Any, style: Expert, width: int, source: Tensor) -> Side:
    made = Transcription(network, style, prompts_of(width, source.device), source)
    made.stack.detach()
    return Side("transcription, float32", made.step, [made.plain, made.styled], lambda: made.stack)


def ours(label: str, network: Any, style: Expert, width: int, source: Tensor) -> Side:
    """On this very network, which is as before between its iterations."""
    stack = ExpertStack(network, [style, init_fake(network, 0)])
    stack.weights.to(source.device)
    fake = [p.requires_grad_(True) for p in stack.parameters(NAME)]
    host, vae = LocalHost(source.device), load_components().vae
    predictor = DiffusersPredictor(network, vae, None, None, scheduler(), host, stack)
    settings = SmsSettings(REFERENCE, iterations=1000)
    prompts = prompts_of(width, source.device)
    matcher = StyleMatcher(predictor, source, prompts, {"watercolor": STRENGTH}, fake, settings)

    @contextmanager
    def attached() -> Iterator[None]:
        with stack, torch.enable_grad():
            yield

    return Side(label, matcher.step, [network], attached)


def in_turn(sides: list[Side], device: torch.device, runs: int) -> list[list[float]]:
    """Seconds of every side, run by run, after one that is not counted."""
    found = [[side.seconds(device) for side in sides] for _ in range(runs + 1)]
    return [list(column) for column in zip(*found[1:], strict=True)]


def sides_of(wanted: str, name: str, latent: int, device: torch.device) -> list[Side]:
    """wanted: "both", "transcription", "ours" or "half"."""
    network, style, width = network_of(name, device)
    source, sides = source_of(latent, device), []
    if wanted in ("both", "transcription"):
        sides.append(transcription(network, style, width, source))
    if wanted in ("both", "ours"):
        sides.append(ours("ours, float32", network, style, width, source))
    if wanted == "half":
        dtype = torch.bfloat16 if device.type == "cpu" else torch.float16
        sides.append(ours(f"ours, {dtype}".replace("torch.", ""), network.to(dtype), style, width, source))
    return sides


def peak_mib(wanted: str, args: argparse.Namespace) -> float:
    """The largest memory of a process of its own that runs two iterations of one side."""
    line = [sys.executable, __file__, "--network", args.network, "--latent", str(args.latent), "--alone", wanted]
    line += ["--device", args.device] if args.device else []
    return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(args: argparse.Namespace, device: torch.device) -> None:
    (side,) = sides_of(args.alone, args.network, args.latent, device)
    for _ in range(2):
        side.seconds(device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_mib()
    sys.stdout.write(f"{peak}\n")


def resident_mib() -> float:
    """The largest resident memory so far. Not `getrusage`: that one inherits the largest of the process before exec."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--alone", choices=["transcription", "ours", "half"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = LocalHost(args.device).device
    if args.alone:
        alone(args, device)
        return
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    sys.stdout.write(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {args.network}, "
                     f"latent {args.latent}, {args.runs} runs in turn\n")  # fmt: skip
    for wanted in ("both", "half") if args.half else ("both",):
        sides = sides_of(wanted, args.network, args.latent, device)
        times = in_turn(sides, device, args.runs)
        for side, own in zip(sides, times, strict=True):
            ratio = statistics.median(a / b for a, b in zip(times[0], own, strict=True))
            faster = f"{ratio:6.2f} x" if wanted == "both" else " " * 8
            kind = "half" if wanted == "half" else side.label.split(",")[0]
            sys.stdout.write(f"{statistics.median(own):8.3f} s  {faster}  weights {side.weights_mib:8.1f} MiB  "
                             f"peak {peak_mib(kind, args):8.1f} MiB  {side.label}\n")  # fmt: skip


if __name__ == "__main__":
    main()
