"""The size whole pictures are worked on at: memory must not grow with the length of a panorama."""

from types import SimpleNamespace

import pytest
import torch

from regionstyle.nodes.sms.settings import Framing
from regionstyle.nodes.sms.work import CropWork


@pytest.mark.parametrize(
    ("size", "worked"),
    [
        ((512, 512), (512, 512)),
        ((3000, 4000), (512, 680)),
        ((400, 800), (512, 1024)),
        ((300, 6000), (48, 1024)),
        ((6000, 300), (1024, 48)),
        ((2, 9000), (8, 1024)),
    ],
)
def test_the_longer_side_is_limited(size, worked):
    predictor = SimpleNamespace(native_size=512, factor=8)
    picture = torch.linspace(0.2, 0.8, size[1]).expand(1, 3, *size)
    work = CropWork(predictor, picture, None, Framing())
    assert tuple(work.cut(picture).shape[-2:]) == worked
    image, mask = work.paste(work.cut(picture))
    torch.testing.assert_close(image, picture, rtol=0, atol=0.02)
    assert torch.equal(mask, torch.ones(1, *size))
