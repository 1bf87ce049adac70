"""The tiny CLIP as a measure: how well a picture fits a text, and which style it shows.

Numbers from it carry `-tiny` in their names wherever a published metric would use a large network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .bundled import load_image_tower, load_text_tower, read
from .crops import crop_object
from .networks import TEXT_LENGTH
from .styles import STYLES, UNSTYLED


class TinyClip:
    """Both towers and the learnt temperature."""

    def __init__(self) -> None:
        self.image, (self.text, self.tokenizer) = load_image_tower(), load_text_tower("clip_text")
        self.scale = float(read("clip_scale")["logit_scale"].float().clamp(max=4.0).exp())

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit embeddings `[B,128]` of images `[B,3,H,W]` in 0..1, which are resized to 128 px."""
        if images.shape[-2:] != (128, 128):
            images = F.interpolate(images, (128, 128), mode="bilinear", antialias=True)
        return F.normalize(self.image(images.float().clamp(0, 1)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings `[B,128]`. RegionStyleError for a text longer than the tower reads."""
        ids = self.tokenizer(list(texts), padding="max_length", max_length=TEXT_LENGTH)["input_ids"]
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) > TEXT_LENGTH:
                accepts = f"at most {TEXT_LENGTH}, with the marks at both ends"
                raise wrong_input("style", f"{len(tokens)} tokens ({text!r})", accepts, "Use fewer words for it.")
        ids = torch.tensor(ids)
        return F.normalize(self.text(input_ids=ids).text_embeds, dim=-1)

    def style_probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Per style, and "plain" for no style, the probability `[B]` that the images show it; they sum to 1."""
        names = [*STYLES, UNSTYLED]
        texts = self.embed_texts([f"a picture in {name} style" for name in names])
        shares = (self.scale * self.embed_images(images) @ texts.T).softmax(-1)
        return dict(zip(names, shares.T, strict=True))


def region_crop(image: Tensor, box: tuple[int, int, int, int], margin: float = 0.1) -> Tensor:
    """The square around a box, as the tiny CLIP was trained on: image `[1,3,H,W]` -> `[1,3,128,128]`."""
    array = image[0].permute(1, 2, 0).float().cpu().numpy()
    return torch.from_numpy(crop_object(array, box, margin)).permute(2, 0, 1)[None]
