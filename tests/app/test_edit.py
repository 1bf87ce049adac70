"""The use case: regions in turn, each by its own mask; and what the command line and the API ask of it."""

import pytest
import torch

from regionstyle.nodes.app.edit import EditResult, EditSettings, edit
from regionstyle.nodes.app.local_model import TINY, known_styles
from regionstyle.nodes.app.stylize import StylizeRequest
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import missing_region

SIZE = (20, 30)


def box(name: str, x0: int, x1: int, style: str = "neon", image: int = 0) -> Region:
    return Region.of_box(name, (x0, 5, x1, 15), SIZE, style=style, image=image)


class Brighten:
    """Adds the region's mask, and notes what it was given."""

    def __init__(self, refused=()):
        self.seen, self.refused = [], refused

    def check(self, region, settings):
        if region.phrase in self.refused:
            raise RegionStyleError(f"cannot paint {region.phrase}")

    def paint(self, image, region, settings):
        self.seen.append((region.phrase, float(image.sum())))
        return EditResult(image + region.mask, region.mask[None], (region,))


def test_each_region_is_worked_on_with_its_own_mask_on_the_result_so_far():
    image, painter = torch.zeros(1, 3, *SIZE), Brighten()
    regions = [box("a", 0, 5), missing_region("b", SIZE), box("c", 10, 12)]
    result = edit(image, regions, painter)
    assert painter.seen == [("a", 0.0), ("c", 150.0)]
    assert torch.equal(result.mask, torch.maximum(regions[0].mask, regions[2].mask)[None])
    assert torch.equal(result.image[0, 0], result.mask[0])
    assert [region.phrase for region in result.regions] == ["a", "b", "c"]
    assert result.changed
    assert not image.any()


def test_every_picture_of_a_batch_has_its_own_regions():
    result = edit(torch.zeros(3, 3, *SIZE), [box("a", 0, 5, image=2), box("b", 6, 8)], Brighten())
    assert result.image.sum((1, 2, 3)).tolist() == [60, 0, 150]
    assert result.mask.sum((1, 2)).tolist() == [20, 0, 50]


def test_nothing_to_paint_leaves_the_picture():
    image = torch.rand(1, 3, *SIZE)
    for regions in ([], [missing_region("a", SIZE)]):
        result = edit(image, regions, Brighten())
        assert torch.equal(result.image, image)
        assert not result.changed


def test_what_cannot_be_painted_is_said_before_anything_is():
    painter = Brighten(refused=("c",))
    with pytest.raises(RegionStyleError, match="cannot paint c"):
        edit(torch.zeros(1, 3, *SIZE), [box("a", 0, 5), box("c", 6, 8)], painter)
    assert not painter.seen


class TestSettings:
    def test_only_what_was_chosen(self):
        assert EditSettings().chosen() == {}
        assert EditSettings(steps=3, seed=0, feather=0, negative="x").chosen() == {"steps": 3, "seed": 0, "feather": 0}

    @pytest.mark.parametrize(
        ("chosen", "said"),
        [
            ({"strength": 0}, "--strength: got 0, expected more than 0, at most 1"),
            ({"strength": 1.5}, "--strength: got 1.5"),
            ({"strength": float("nan")}, "--strength: got nan"),
            ({"strength": "half"}, "--strength: got 'half'"),
            ({"steps": 0}, "--steps: got 0"),
            ({"steps": 2.5}, "--steps: got 2.5"),
            ({"steps": True}, "--steps: got True"),
            ({"cfg": -1}, "--cfg: got -1"),
            ({"cfg": float("inf")}, "--cfg: got inf"),
        ],
    )
    def test_numbers_out_of_range(self, chosen, said):
        with pytest.raises(RegionStyleError, match=said.replace("(", r"\(")):
            EditSettings(**chosen)

    def test_words(self):
        region = box("leftmost cat", 0, 5)
        assert EditSettings().prompt_of(region) == "a cat in neon style"
        assert EditSettings(template="{style}").prompt_of(region) == "neon"
        assert EditSettings(prompt="two owls").prompt_of(region) == "two owls"


def test_the_painter_that_a_request_asks_for():
    assert StylizeRequest("x").painter == "automatic"
    assert StylizeRequest("x", generator="off").painter == "expert"
    assert StylizeRequest("x", generator="watercolor").painter == "generator"
    with pytest.raises(RegionStyleError, match="--generator: got it with --cfg"):
        StylizeRequest("x", generator="watercolor", settings=EditSettings(cfg=3)).check()


def test_known_styles():
    assert "mosaic" in known_styles(TINY)
    assert known_styles("a folder") is None
