"""The thing in a box, outlined without a network."""

import time

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions, missing_region
from regionstyle.nodes.grounding.masks import grabcut, outlines
from regionstyle.nodes.grounding.masks.grabcut import grabcut_mask
from regionstyle.nodes.grounding.masks.outlines import check_outline, outline_boxes

needs_opencv = pytest.mark.skipif(not grabcut.has_opencv(), reason="OpenCV is not installed")


def disc(side=200, at=(90, 110), radius=50, hole=0):
    """A red disc on a noisy green ground, and where it is."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = ((y - at[0]) ** 2 + (x - at[1]) ** 2).sqrt()
    inside = (distance < radius) & (distance >= hole)
    red, green = (torch.tensor(colour)[:, None, None] for colour in ([0.8, 0.2, 0.2], [0.2, 0.6, 0.3]))
    colours = torch.where(inside, red, green)
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0)) * 0.05
    return (colours + noise).clamp(0, 1), distance < radius


def iou(mask, truth):
    return float((mask.gt(0.5) & truth).sum() / (mask.gt(0.5) | truth).sum())


@needs_opencv
class TestGrabCut:
    @pytest.mark.parametrize("side", [200, 900])
    def test_the_thing_and_not_the_box(self, side):
        image, truth = disc(side, (side * 0.45, side * 0.55), side // 4)
        box = tuple(int(side * at) for at in (0.25, 0.15, 0.85, 0.75))
        mask = grabcut_mask(image, box)
        assert iou(mask, truth) > 0.95
        outside = torch.ones_like(mask)
        outside[box[1] : box[3], box[0] : box[2]] = 0
        assert not bool((mask * outside).any())
        assert torch.equal(mask, grabcut_mask(image, box))

    def test_small_holes_belong_to_it(self):
        image, truth = disc(hole=8)
        assert iou(grabcut_mask(image, (40, 20, 180, 160)), truth) > 0.95

    def test_the_edge_is_soft(self):
        mask = grabcut_mask(disc()[0], (40, 20, 180, 160))
        assert 20 < int(((mask > 0.05) & (mask < 0.95)).sum()) < 3000

    def test_a_flat_picture_and_a_whole_one_have_no_outline(self):
        assert grabcut_mask(torch.full((3, 60, 80), 0.5), (10, 10, 40, 40)) is None
        assert grabcut_mask(disc()[0], (0, 0, 200, 200)) is None

    @pytest.mark.parametrize("box", [(5, 5, 6, 6), (0, 0, 199, 200), (0, 0, 200, 3)])
    def test_odd_boxes(self, box):
        mask = grabcut_mask(disc()[0], box)
        assert mask is None or mask.shape == (200, 200)

    def test_the_time_does_not_grow_with_the_picture(self):
        image = torch.nn.functional.interpolate(disc()[0][None], (2667, 4000), mode="bilinear")[0]
        began = time.process_time()
        assert grabcut_mask(image, (800, 266, 3600, 2133)) is not None
        assert time.process_time() - began < 2


def regions(*boxes, size=(200, 200)):
    items = [Region.of_box(f"thing {number}", box, size, style="neon") for number, box in enumerate(boxes)]
    return Regions((*items, missing_region("absent", size)), *size)


class TestOutlines:
    def test_box(self):
        made = outline_boxes(disc()[0][None], regions((10, 10, 50, 50)), "box")
        assert (made.said, made.notices) == ("box", ())
        assert float(made.regions.items[0].mask.sum()) == 1600

    @needs_opencv
    def test_grabcut_says_what_it_could_not_outline(self):
        made = outline_boxes(disc()[0][None], regions((40, 20, 180, 160), (0, 0, 200, 200)), "grabcut")
        cut, whole, absent = made.regions.items
        assert 7000 < float(cut.mask.sum()) < 8700
        assert (cut.style, cut.phrase) == ("neon", "thing 0")
        assert float(whole.mask.sum()) == 40000
        assert not bool(absent.mask.any())
        assert made.said == "GrabCut"
        (notice,) = made.notices
        assert "thing 1" in notice

    def test_without_opencv(self, monkeypatch):
        for module in (grabcut, outlines):
            monkeypatch.setattr(module, "has_opencv", lambda: False)
        made = outline_boxes(disc()[0][None], regions((10, 10, 50, 50)), "grabcut", required=False)
        assert made.said == "box"
        assert "OpenCV" in made.notices[0]
        with pytest.raises(RegionStyleError, match="opencv-python-headless"):
            outline_boxes(disc()[0][None], regions((10, 10, 50, 50)), "grabcut")

    def test_what_cannot_be(self):
        with pytest.raises(RegionStyleError, match="network"):
            check_outline("sam", sam=False)
        with pytest.raises(RegionStyleError, match="box, grabcut, sam"):
            check_outline("lasso", sam=True)
