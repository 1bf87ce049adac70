"""One iteration of SMS beside a plain transcription of the published procedure, in one run on one network.

python tests/bench/bench_sms.py [--network tiny|sd15] [--latent 16] [--runs 5] [--device cuda]

The transcription keeps two copies of the network (plain with the fake LoRA, and one with the style LoRA merged in),
calls them one after the other with two prompts each, in float32, takes the relevance map through numpy, and runs the
unconditional half of the fake predictor's training pass for nothing. Ours runs on one copy. First both are compared at
float32, then ours at the half precision of the device. sd15 has random weights. Prints processor seconds per iteration
on the CPU and wall clock on a GPU, and the memory of weights and (on a GPU) of the whole. Not a test.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regionstyle.kernels import spectrum_distance
from regionstyle.nodes.engine.adapters import ExpertStack
from regionstyle.nodes.engine.diffusers_predictor import DiffusersPredictor
from regionstyle.nodes.engine.expert import Expert, LoraLayer
from regionstyle.nodes.engine.gates import Gates
from regionstyle.nodes.engine.host import LocalHost
from regionstyle.nodes.engine.predictor import Text
from regionstyle.nodes.sms.fake import NAME, fresh_fake
from regionstyle.nodes.sms.local import with_fake
from regionstyle.nodes.sms.optimise import StyleMatcher
from regionstyle.nodes.sms.presets import REFERENCE
from regionstyle.nodes.sms.score import Prompts, SmsSettings
from regionstyle.nodes.tinyworld.networks import scheduler
from regionstyle.nodes.tinyworld.shipped import load_components, load_shipped_expert

WORDS, STRENGTH, TIME = "a picture in watercolor style", 0.8, 0.25
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


def network_of(name: str, device: torch.device) -> tuple[Any, Expert, int]:
    """A denoiser, a style LoRA for it, and its text width."""
    if name == "tiny":
        return load_components().unet.to(device), load_shipped_expert("watercolor"), 128
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    network = UNet2DConditionModel(**SD15).eval().requires_grad_(False).to(device)
    fresh = fresh_fake(network, 1)
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
        self.stack = ExpertStack(network, [fresh_fake(network, 0)])
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


def weights_mib(*networks: Any) -> float:
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters()) / 2**20


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of one call: processor time, which other programs do not lengthen, or wall clock on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def ours(predictor: DiffusersPredictor, fake: list[Any], prompts: Prompts, source: Tensor) -> StyleMatcher:
    settings = SmsSettings(REFERENCE, iterations=1000)
    return StyleMatcher(predictor, source, prompts, {"watercolor": STRENGTH}, fake, settings)


def measured(step: Callable[[], None], device: torch.device, runs: int) -> tuple[float, float]:
    """Median seconds of one iteration, after one that is not counted, and the largest GPU memory in MiB (CPU: 0)."""
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = statistics.median(seconds(step, device) for _ in range(runs))
    return found, torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0


def rows(name: str, latent: int, runs: int, device: torch.device) -> list[tuple[str, float, float, float]]:
    """Label, seconds, MiB of weights, MiB of GPU memory."""
    host, found = LocalHost(device), []
    for label, dtype in (("ours, float32", torch.float32), ("ours, half precision", torch.float16)):
        if dtype == torch.float16 and device.type == "cpu":
            continue  # slower than float32 on CPUs
        network, style, width = network_of(name, device)
        source = torch.randn(1, 4, latent, latent, generator=torch.Generator().manual_seed(3)).to(device)
        if dtype == torch.float32:
            plain = Transcription(network, style, prompts_of(width, device), source)
            time_, memory = measured(plain.step, device, runs)
            found.append(("transcription, float32", time_, weights_mib(plain.plain, plain.styled), memory))
            plain.stack.detach()
            del plain
        network = network.to(dtype)
        stack = ExpertStack(network, [style])
        stack.weights.to(device)
        stack.attach()
        vae = load_components().vae
        predictor = DiffusersPredictor(network, vae, None, None, scheduler(), host, stack)
        with with_fake(predictor, 0) as (both, fake), torch.enable_grad():
            matcher = ours(both, fake, prompts_of(width, device), source)
            time_, memory = measured(matcher.step, device, runs)
        found.append((label, time_, weights_mib(network), memory))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device")
    args = parser.parse_args()
    device = LocalHost(args.device).device
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    sys.stdout.write(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {args.network}, "
                     f"latent {args.latent}\n")  # fmt: skip
    found = rows(args.network, args.latent, args.runs, device)
    for label, time_, weights, memory in found:
        gpu = f"  peak {memory:8.1f} MiB" if memory else ""
        sys.stdout.write(f"{time_:8.3f} s  {found[0][1] / time_:6.2f} x  weights {weights:8.1f} MiB{gpu}  {label}\n")


if __name__ == "__main__":
    main()
