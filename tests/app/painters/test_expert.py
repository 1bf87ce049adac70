"""The painter "expert" on the tiny world."""

import pytest
import torch

from regionstyle.nodes.app.edit import EditSettings, edit
from regionstyle.nodes.app.local_model import TINY, open_model, tiny_settings
from regionstyle.nodes.app.painters.expert import ExpertPainter
from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.router.restyle import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import RESTYLE, STRENGTHS

STAR = Region.of_box("star", (0, 5, 5, 15), (20, 30), style="neon")


def test_what_is_not_chosen_is_usual():
    painter = ExpertPainter(None, tiny_settings)
    settings = painter._settings(STAR, EditSettings(steps=2))
    assert settings == RestyleSettings(**{**RESTYLE, "strength": STRENGTHS["neon"], "steps": 2})


def test_it_refuses_before_it_paints():
    with pytest.raises(RegionStyleError, match="template"):
        ExpertPainter(None, tiny_settings).check(STAR, EditSettings(template="a {phrase}"))


def test_it_paints_inside_its_region_only():
    model = open_model(TINY, LocalHost("cpu"), styles=["neon"])
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    region = Region.of_box("star", (30, 30, 90, 90), (128, 128), style="neon")
    settings = EditSettings(steps=1, seed=3)
    painter = painter_named("expert", PainterContext(model, settings))
    with model.predictor.loaded():
        first, again = (edit(image, [region], painter, settings) for _ in range(2))
    outside = (first.mask[0] == 0).expand_as(image)
    assert torch.equal(first.image[outside], image[outside])
    assert not torch.equal(first.image[~outside], image[~outside])
    assert torch.equal(first.image, again.image)
