"""What an expert is trained on, encoded once: latents of all crops and the prompts, ready to be drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.predictor.base import NoisePredictor, Text
from .style_pictures import Cropping, Crops, StylePicture, mixed_seed, prompt_of


@dataclass(frozen=True, eq=False)
class Draw:
    """One sample of a step: latent `[C,h,w]`, number of its picture, timestep 0..999 and noise `[C,h,w]`."""

    latent: Tensor
    picture: int
    timestep: int
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """latents: of each picture's crops `[V,C,h,w]`; texts: one prompt per picture, as in prompts; empty: the prompt
    without words; mark: changes with any pixel or word."""

    latents: Sequence[Tensor]
    texts: Sequence[Text]
    prompts: Sequence[str]
    empty: Text
    mark: str

    def draw(self, seed: int, number: int) -> Draw:
        """Sample `number` of a training: every picture once per round, in a new order each; all else at random.

        It follows from seed and number alone, so a training that is resumed, or whose batch is halved, draws the same.
        """
        count = len(self.latents)
        order = torch.randperm(count, generator=_generator(seed, 0, number // count))
        picture = int(order[number % count])
        generator = _generator(seed, 1, number)
        crops = self.latents[picture]
        crop = crops[int(torch.randint(len(crops), (), generator=generator))]
        timestep = int(torch.randint(1000, (), generator=generator))
        return Draw(crop, picture, timestep, torch.randn(crop.shape, generator=generator))


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(mixed_seed(*numbers))


def encode_examples(
    predictor: NoisePredictor, pictures: Sequence[StylePicture], style: str, cropping: Cropping, seed: int
) -> Examples:
    """Encode every crop and prompt; reports progress and can be cancelled at every picture.

    RegionStyleError for too few or unreadable pictures, and a side that the autoencoder cannot encode.
    """
    if cropping.side % predictor.factor:
        accepts = f"a multiple of {predictor.factor}"
        raise wrong_input("resolution", cropping.side, accepts, f"This model's own size is {predictor.native_size}.")
    crops, digest, latents = Crops(pictures, cropping, seed), hashlib.sha256(), []
    prompts = [prompt_of(picture.caption, style) for picture in pictures]
    progress = predictor.host.progress(len(pictures), "encoding pictures")
    with torch.no_grad(), predictor.loaded():
        encoded = {prompt: predictor.encode_text([prompt]) for prompt in dict.fromkeys([*prompts, ""])}
        for number, prompt in enumerate(prompts):
            images, mark = crops.images(number)
            latents.append(predictor.encode(images).float().cpu())
            digest.update(f"{mark} {prompt}\n".encode())
            progress.update(number + 1)
    return Examples(latents, [encoded[prompt] for prompt in prompts], prompts, encoded[""], digest.hexdigest())
