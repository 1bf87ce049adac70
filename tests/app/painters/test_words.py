"""The painter "words", with the adapter that ships: nothing is masked, unless it is composited."""

import pytest
import torch

from regionstyle.nodes.app.edit import EditSettings, edit
from regionstyle.nodes.app.local_model import TINY, open_model
from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
from regionstyle.nodes.app.painters.words import REDRAWN
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.region import Region

SETTINGS = EditSettings(steps=1, seed=2)
BOX = (30, 30, 90, 90)


@pytest.fixture(scope="module")
def model():
    return open_model(TINY, LocalHost("cpu"))


def thing(phrase, style):
    return Region.of_box(phrase, BOX, (128, 128), style=style)


def test_all_of_the_picture_is_drawn_anew_which_is_said(model):
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    painter = painter_named("words", PainterContext(model, SETTINGS))
    asked = [thing("red star", "neon"), thing("moon", "mosaic"), thing("red star", "neon")]
    assert [len(group) for group in painter.together((128, 128), asked, SETTINGS)] == [3]
    made = edit(image, asked, painter, SETTINGS)
    assert float((made.image == image).float().mean()) < 0.1
    assert bool((made.mask == 1).all())
    assert made.notes == (REDRAWN,)


def test_composited_the_rest_stays(model):
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    painter = painter_named("words", PainterContext(model, SETTINGS, composite=True))
    made = edit(image, [thing("red star", "neon")], painter, SETTINGS)
    outside = (made.mask[0] == 0).expand_as(image)
    assert torch.equal(made.image[outside], image[outside])
    assert not torch.equal(made.image[~outside], image[~outside])
    assert made.notes == ()


def test_it_refuses_before_it_draws(model):
    painter = painter_named("words", PainterContext(model, SETTINGS))
    with pytest.raises(RegionStyleError, match=r"edit by words: got it with strength, expected only seed, steps, cfg"):
        painter.check(thing("star", "neon"), EditSettings(strength=0.5))
    with pytest.raises(RegionStyleError, match="the thing 'sky'"):
        painter.check(thing("sky", "neon"), SETTINGS)
    with pytest.raises(RegionStyleError, match="the style 'cubism'"):
        painter.check(thing("star", "cubism"), SETTINGS)
    painter.check(thing("blue star", "neon"), EditSettings(steps=3, cfg=2.0, seed=1))
