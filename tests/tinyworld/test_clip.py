"""The tiny CLIP's texts: what it reads, and what is longer than it can read."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.tinyworld.clip import TinyClip


def test_a_text_longer_than_the_tower_reads_is_one_sentence():
    clip, fitting = TinyClip(), "neon " * 75
    assert clip.embed_texts(["neon", fitting]).shape == (2, 128)
    with pytest.raises(RegionStyleError, match=r"style: got 78 tokens .*expected at most 77.* Use fewer") as error:
        clip.embed_texts(["neon", f"{fitting} neon"])
    assert len(str(error.value)) < 600


def test_a_text_is_read_as_before():
    """Padded to the tower's length, whatever else is asked for in the same call."""
    clip = TinyClip()
    together = clip.embed_texts(["a picture in neon style", "mosaic"])
    assert torch.allclose(together[1], clip.embed_texts(["mosaic"])[0], atol=1e-6)
    assert torch.allclose(together.norm(dim=-1), torch.ones(2))
