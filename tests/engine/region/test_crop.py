"""Region crop: where the window lies, and what cutting and pasting keep."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from region_pictures import mask_of, picture, places
from torch.utils._python_dispatch import TorchDispatchMode

from regionstyle.nodes.engine.region.region import RegionCrop


def random_case(seed):
    """A picture of 16 to 400 px a side, a box anywhere in it (often at the frame), native size and scale limit."""
    draw = random.Random(seed)
    height, width = draw.randint(16, 400), draw.randint(16, 400)
    x0, y0 = draw.choice([0, draw.randrange(width)]), draw.choice([0, draw.randrange(height)])
    x1, y1 = draw.choice([width, draw.randint(x0 + 1, width)]), draw.choice([height, draw.randint(y0 + 1, height)])
    settings = {
        "native": draw.choice([64, 100, 128]),
        "grid": draw.choice([8, 16]),
        "margin": draw.choice([0.0, 0.25, 1.0]),
        "largest_scale": draw.choice([1.0, 2.0, math.inf]),
    }
    return (height, width), (x0, y0, x1, y1), settings


@pytest.mark.parametrize("seed", range(60))
def test_any_size_and_box(seed):
    size, box, settings = random_case(seed)
    crop = RegionCrop.around(box, size, **settings)
    x0, y0, x1, y1 = crop.window
    assert x0 <= box[0]
    assert y0 <= box[1]
    assert x1 >= box[2]
    assert y1 >= box[3]
    assert crop.size % settings["grid"] == 0
    assert abs(crop.size - settings["native"]) <= settings["grid"] / 2
    assert crop.scale <= settings["largest_scale"] * (1 + 1e-9)
    image = picture(*size, seed)
    cut = crop.cut(image)
    assert cut.shape == (1, 3, crop.size, crop.size)
    assert cut.min() >= image.min()
    assert cut.max() <= image.max()

    mask, feather = mask_of(box, size), (seed % 7) - 3
    pasted = crop.paste(image, 1 - cut, mask, feather)
    seam = crop.composite_mask(mask, feather)
    assert torch.equal(pasted.masked_select(seam == 0), image.masked_select(seam == 0))
    assert torch.equal(image, picture(*size, seed)), "the original was written to"
    outside = torch.nn.functional.max_pool2d(mask[None, None], 2 * max(feather, 0) + 1, 1, max(feather, 0)) == 0
    assert (seam[outside] == 0).all()


def check_paste(size, box, feather, **settings):
    """Everything the crop promises about one region: the window holds it, the seam fits, the rest is bit-equal."""
    mask, image = mask_of(box, size), picture(*size, seed=sum(size))
    crop = RegionCrop.around(mask, **settings)
    assert crop == RegionCrop.around(box, size, **settings)
    x0, y0, x1, y1 = crop.window
    assert x0 <= box[0] < box[2] <= x1
    assert y0 <= box[1] < box[3] <= y1
    cut = crop.cut(image)
    assert cut.shape == (1, 3, crop.size, crop.size)
    assert crop.cut_mask(mask).max() > 0
    seam, pasted = crop.composite_mask(mask, feather)[0, 0], crop.paste(image, 1 - cut, mask, feather)
    assert pasted.isfinite().all()
    assert torch.equal(pasted[..., seam == 0], image[..., seam == 0])
    reach = max(feather, 0)
    near = torch.zeros(size, dtype=torch.bool)
    near[max(0, box[1] - reach) : box[3] + reach, max(0, box[0] - reach) : box[2] + reach] = True
    assert not seam[~near].any(), "the seam is wider than asked for"
    if feather == 0:
        assert (seam[mask == 1] == 1).all()
    assert (seam[mask == 1] > 0).all(), "a part of the region is not worked on"


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 1), (64, 65), (301, 77)], ids=str)
@pytest.mark.parametrize("place", places(9, 9))
def test_every_edge_and_corner(place, size):
    box = places(*size)[place]
    for feather in (0, 3, -3, 40):
        for settings in ({}, {"largest_scale": math.inf}, {"margin": 0.0, "largest_scale": 4.0}):
            check_paste(size, box, feather, native=32, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "place"),
    [((4096, 16), "bottom right"), ((16, 4096), "column"), ((1023, 2049), "frame"), ((4096, 4095), "last pixel")],
    ids=str,
)
def test_large_and_long_pictures(size, place):
    check_paste(size, places(*size)[place], 6, native=512)


def test_large_picture():
    image = picture(4096, 3000)
    crop = RegionCrop.around((2900, 4000, 3000, 4096), (4096, 3000), native=512)
    assert crop.window == (2488, 3584, 3000, 4096)
    mask = mask_of((2900, 4000, 3000, 4096), (4096, 3000))
    pasted = crop.paste(image, torch.zeros(1, 3, 512, 512), mask)
    assert torch.equal(pasted, image * (1 - mask))


def test_unscaled_round_trip_is_exact():
    """At scale 1 nothing is resampled: cutting and pasting give the very same pixels."""
    image = picture(201, 333)
    crop = RegionCrop.around((50, 60, 70, 90), (201, 333), native=64)
    x0, y0, x1, y1 = crop.window
    assert torch.equal(crop.cut(image), image[..., y0:y1, x0:x1])
    assert torch.equal(
        crop.paste(image, crop.cut(image), torch.ones(201, 333)[None] * mask_of(crop.window, (201, 333))), image
    )


def test_mask_of_one_gives_the_worked_pixels():
    image, crop = picture(100, 120), RegionCrop.around((40, 30, 60, 50), (100, 120), native=64)
    worked = picture(64, 64, seed=1)
    pasted = crop.paste(image, worked, mask_of((40, 30, 60, 50), (100, 120)), feather=3)
    inside = worked[..., 30 - crop.top : 50 - crop.top, 40 - crop.left : 60 - crop.left]
    assert torch.equal(pasted[..., 30:50, 40:60], inside)


def test_largest_scale():
    tiny = ((10, 10, 14, 14), (300, 300))
    assert RegionCrop.around(*tiny, native=128).side == 128
    assert RegionCrop.around(*tiny, native=128, largest_scale=4).side == 32
    assert RegionCrop.around(*tiny, native=128, largest_scale=math.inf, margin=0.25).side == 6
    large = RegionCrop.around((0, 0, 300, 300), (300, 300), native=128)
    assert large.side == 300
    assert large.scale == pytest.approx(128 / 300)


def test_picture_smaller_than_native_repeats_its_edges():
    image = picture(40, 60)
    crop = RegionCrop.around((5, 5, 20, 20), (40, 60), native=128)
    cut = crop.cut(image)
    assert crop.side == crop.size == 128
    top, left = -crop.top, -crop.left
    assert torch.equal(cut[..., top : top + 40, left : left + 60], image)
    assert torch.equal(cut[..., 0, left : left + 60], image[..., 0, :])
    assert torch.equal(cut[..., -1, -1], image[..., -1, -1])


def test_shrinking_is_antialiased():
    """A checkerboard shrunk to a third has nothing left but its mean."""
    board = (torch.arange(384)[:, None] + torch.arange(384)) % 2
    crop = RegionCrop.around((0, 0, 384, 384), (384, 384), native=128)
    cut = crop.cut(board[None, None].float().expand(1, 3, -1, -1))
    assert (cut[..., 4:-4, 4:-4] - 0.5).abs().max() < 0.05


def test_smooth_picture_survives_resampling():
    ramp = torch.linspace(0, 1, 300)[None, None, :, None].expand(1, 3, 300, 300)
    crop = RegionCrop.around((50, 50, 250, 250), (300, 300), native=128)
    pasted = crop.paste(ramp, crop.cut(ramp), mask_of((50, 50, 250, 250), (300, 300)))
    assert (pasted - ramp).abs().max() < 5e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    image = picture(90, 70, dtype=dtype)
    crop = RegionCrop.around((20, 20, 60, 60), (90, 70), native=32)
    mask = mask_of((20, 20, 60, 60), (90, 70))
    assert crop.cut(image).dtype == dtype
    pasted = crop.paste(image, torch.zeros(1, 3, 32, 32), mask, feather=2)
    assert pasted.dtype == dtype
    seam = crop.composite_mask(mask, 2).expand_as(image)
    assert torch.equal(pasted[seam == 0], image[seam == 0])
    assert (pasted[seam == 1] == 0).all()


def test_several_regions_in_any_order():
    image = picture(150, 220)
    boxes = [(10, 10, 50, 60), (120, 0, 220, 90), (70, 100, 90, 150)]
    results = []
    for order in ([0, 1, 2], [2, 1, 0]):
        result = image
        for at in order:
            mask = mask_of(boxes[at], (150, 220))
            crop = RegionCrop.around(mask, native=64)
            result = crop.paste(result, crop.cut(image).flip(1), mask, feather=4)
        results.append(result)
    assert torch.equal(*results)


def test_overlapping_regions_one_after_the_other():
    """Each is blended over what is there, and where no seam reaches, the picture is untouched."""
    image, size = picture(90, 110), (90, 110)
    result, touched = image, torch.zeros(size, dtype=torch.bool)
    for at, box in enumerate([(10, 10, 60, 60), (40, 30, 100, 80), (50, 50, 51, 51), (0, 0, 110, 12)]):
        mask = mask_of(box, size)
        crop = RegionCrop.around(mask, native=48, largest_scale=2.0)
        seam, before = crop.composite_mask(mask, 4)[0, 0], result
        result = crop.paste(result, torch.full((1, 3, 48, 48), at / 3), mask, 4)
        torch.testing.assert_close(result, torch.lerp(before, torch.tensor(at / 3), seam.expand_as(image)))
        touched |= seam > 0
    assert torch.equal(result[..., ~touched], image[..., ~touched])
    assert (result[..., touched] != image[..., touched]).any(1).float().mean() > 0.9


def test_samples_of_a_batch_do_not_see_each_other():
    """Resizing overshoots at edges and is cut back: to the range of the same picture, not of its neighbours."""
    images = torch.cat([picture(50, 60).round(), 5 * picture(50, 60, seed=1).round() - 2])
    crop, mask = RegionCrop.around((5, 5, 45, 45), (50, 60), native=32), mask_of((5, 5, 45, 45), (50, 60))
    together, pasted = crop.cut(images), crop.paste(images, crop.cut(images), mask, 2)
    for at in range(2):
        assert torch.equal(together[at : at + 1], crop.cut(images[at : at + 1]))
        alone = crop.paste(images[at : at + 1], together[at : at + 1], mask, 2)
        assert torch.equal(pasted[at : at + 1], alone)
    assert crop.cut(images[:0]).shape == (0, 3, 32, 32)


def test_batch_with_one_mask_each():
    images = torch.cat([picture(60, 80), picture(60, 80, seed=1)])
    masks = torch.stack([mask_of((5, 5, 20, 20), (60, 80)), mask_of((30, 10, 50, 30), (60, 80))])
    crop = RegionCrop.around(masks, native=64)
    pasted = crop.paste(images, 1 - crop.cut(images), masks)
    for at in range(2):
        assert torch.equal(pasted[at, :, masks[at] == 0], images[at, :, masks[at] == 0])
        assert not torch.equal(pasted[at, :, masks[at] == 1], images[at, :, masks[at] == 1])


def test_not_finite_outside_the_mask_does_not_leak():
    image, crop = picture(64, 64), RegionCrop.around((10, 10, 30, 30), (64, 64), native=64)
    worked = torch.full((1, 3, 64, 64), math.nan)
    worked[..., 10:30, 10:30] = 0
    mask = mask_of((10, 10, 30, 30), (64, 64))
    assert torch.equal(crop.paste(image, worked, mask), image * (1 - mask))


def test_cut_and_paste_are_differentiable():
    image, original = (picture(10, 12, seed, torch.float64)[:, :1] for seed in (0, 1))
    crop = RegionCrop.around((3, 3, 8, 9), (10, 12), native=16, grid=4, largest_scale=4)
    mask = mask_of((3, 3, 8, 9), (10, 12)).double()
    assert crop.scale > 1
    leaves = [image.requires_grad_(), original.requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, y: crop.paste(y, crop.cut(x) * 0.5, mask, 2), leaves)


class LargestTensor(TorchDispatchMode):
    """How many values the largest tensor made inside has."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.values = max(self.values, made.untyped_storage().size() // 4 if isinstance(made, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("size", [(40, 3000), (3000, 40)])
def test_a_long_picture_is_never_held_as_a_square(size):
    image, mask = torch.rand(1, 3, *size), torch.ones(size)
    crop = RegionCrop.around(mask, native=32, grid=8)
    assert crop.side == 3000
    with LargestTensor() as largest:
        crop.paste(image, crop.cut(image), mask, 2)
    assert largest.values <= 2 * image.numel()


@pytest.mark.parametrize("size", [(40, 300), (300, 40), (37, 91)])
def test_axis_by_axis_is_the_resized_square(size):
    """Against the definition: the square with repeated edges, resized at once."""
    image, mask = torch.rand(1, 3, *size), torch.ones(size)
    crop = RegionCrop.around(mask, native=64, grid=8)
    margins = [(crop.side - size[1]) // 2, (crop.side - size[0]) // 2]
    wide = [margins[0], crop.side - size[1] - margins[0], margins[1], crop.side - size[0] - margins[1]]
    square = F.pad(image, wide, mode="replicate")
    limits = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    expected = F.interpolate(square, (64, 64), mode="bicubic", antialias=True).clamp(*limits)
    torch.testing.assert_close(crop.cut(image), expected, rtol=0, atol=2e-6)
    worked = torch.rand(1, 3, 64, 64)
    limits = worked.amin((-2, -1), keepdim=True), worked.amax((-2, -1), keepdim=True)
    back = F.interpolate(worked, (crop.side, crop.side), mode="bicubic", antialias=True).clamp(*limits)
    back = back[..., wide[2] : wide[2] + size[0], wide[0] : wide[0] + size[1]]
    torch.testing.assert_close(crop.paste(image, worked, mask), back, rtol=0, atol=2e-6)
