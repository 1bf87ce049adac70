import pytest
import torch

from regionstyle.kernels import sample_patches
from regionstyle.kernels.patches import (
    _draw_corners,
    _draw_windows,
    _inverse_homography,
    _perspective_grid,
    _sample,
    sample_patches_reference,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def seed(value=3):
    return torch.Generator().manual_seed(value)


def coordinates(h, w):
    """An image whose two channels say where they are: x and y of each pixel."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([x, y])[None].double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("crop", "size", "distortion", "fill"), [(9, 9, 0.5, 0.0), (7, 12, 0.8, 0.7), (40, 5, 0.3, -1.0), (1, 3, 0.5, 0.0)]
)
def test_agrees_with_reference(crop, size, distortion, fill, dtype, agree):
    boxes = torch.tensor([[0, 0, 30, 20], [4.5, 3, 17.2, 30]])
    agree(
        lambda x: sample_patches(x, boxes, 3, crop, size, distortion=distortion, fill=fill, generator=seed()),
        lambda x: sample_patches_reference(x, boxes, 3, crop, size, distortion=distortion, fill=fill, generator=seed()),
        [torch.randn(2, 2, 31, 33)],
        dtype,
    )


@pytest.mark.parametrize(("crop", "size"), [(10, 25), (10, 10), (20, 7)])
def test_without_distortion_it_is_plain_resizing(crop, size):
    """Enlarged patches repeat their edge pixels as resizing does, and do not fade into `fill` there."""
    image = torch.randn(1, 3, 30, 40, dtype=torch.float64)
    box = torch.tensor([[5, 4, 5 + crop, 4 + crop]])
    result = sample_patches(image, box, 2, crop, size, distortion=0.0, fill=9.0)
    window = image[..., 4 : 4 + crop, 5 : 5 + crop]
    expected = torch.nn.functional.interpolate(window, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result, expected[:, None].expand_as(result), atol=1e-9, rtol=0)


def test_gradcheck():
    image = torch.randn(1, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1, 1, 8, 9]])
    assert torch.autograd.gradcheck(lambda x: sample_patches(x, boxes, 2, 6, 5, generator=seed()), image)


@pytest.mark.parametrize("n", [6, 13, 100])
@pytest.mark.parametrize("distortion", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_agrees_with_torchvision(n, distortion, fill):
    functional = pytest.importorskip("torchvision.transforms.functional")
    window = torch.rand(1, 3, n, n, dtype=torch.float64)
    side = torch.full((1, 8), float(n)).double()
    corners = _draw_corners(side, distortion, seed())
    grid = _perspective_grid(corners, side, n)
    result = _sample(window, torch.zeros(1, 8, 2).double(), side, grid, fill)
    inner = ((grid >= 0) & (grid <= n - 1)).all(-1)[:, :, None]
    outer = ((grid <= -1) | (grid >= n)).any(-1)[:, :, None]
    plain = [[0, 0], [n - 1, 0], [n - 1, n - 1], [0, n - 1]]
    for i, points in enumerate(corners[0].int().tolist()):
        expected = functional.perspective(window.float(), plain, points, fill=fill)[0].double()
        # A concave quadrangle has a horizon, on which torchvision divides by zero.
        number = expected.isfinite()
        for part in (number & inner[0, i], number & outer[0, i]):
            torch.testing.assert_close(result[0, i][part], expected[part], atol=2e-4, rtol=0)
    assert inner.any()
    assert result.isfinite().all()


def test_corners_are_drawn_as_torchvision_does():
    side = torch.full((1, 4000), 21.0).double()
    corners = _draw_corners(side, 0.5, seed())[0]
    inset = torch.stack([corners[:, 0, 0], 20 - corners[:, 1, 0], 20 - corners[:, 2, 1], corners[:, 3, 0]])
    counts = torch.bincount(inset.flatten().long()) / inset.numel()
    # int(0.5 * (21 // 2)) = 5, so 0..5, each as often.
    torch.testing.assert_close(counts, torch.full((6,), 1 / 6), atol=0.02, rtol=0)


def test_homography_takes_the_corners_back():
    side = torch.full((1, 50), 33.0)
    corners = _draw_corners(side.double(), 0.7, seed()).float()
    points = torch.cat([corners, torch.ones(1, 50, 4, 1)], -1) @ _inverse_homography(corners, side).transpose(-1, -2)
    expected = 32 * torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).expand(1, 50, 4, 2)
    torch.testing.assert_close(points[..., :2] / points[..., 2:], expected, atol=1e-3, rtol=0)


def test_without_distortion_a_patch_is_a_piece_of_the_image():
    image, boxes = coordinates(40, 50), torch.tensor([[10, 5, 45, 38]])
    patches = sample_patches(image, boxes, 20, 12, 12, distortion=0.0, generator=seed())[0]
    for patch in patches:
        x, y = patch[:, 0, 0].round().int().tolist()
        torch.testing.assert_close(patch, image[0, :, y : y + 12, x : x + 12], atol=1e-9, rtol=0)
        assert 10 <= x <= 45 - 12
        assert 5 <= y <= 38 - 12


def test_windows_reach_every_place_of_the_box():
    patches = sample_patches(coordinates(9, 9), torch.tensor([[2, 1, 7, 5]]), 300, 3, 3, distortion=0.0)[0]
    starts = {tuple(p[:, 0, 0].round().int().tolist()) for p in patches}
    assert starts == {(x, y) for x in (2, 3, 4) for y in (1, 2)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64], ids=str)
def test_boxes_of_any_number_type(dtype):
    """Also where the type could not hold the size of the picture."""
    image, box = coordinates(300, 400), torch.tensor([[40, 50, 60, 70]])
    expected = sample_patches(image, box, 3, 12, 12, generator=seed())
    assert torch.equal(sample_patches(image, box.to(dtype), 3, 12, 12, generator=seed()), expected)


def test_each_image_uses_its_own_box():
    image = torch.cat([coordinates(30, 30), coordinates(30, 30) + 100])
    boxes = torch.tensor([[0.0, 0, 8, 8], [20, 20, 30, 30]])
    patches = sample_patches(image, boxes, 4, 6, 6, distortion=0.0)
    assert patches.shape == (2, 4, 2, 6, 6)
    assert patches[0].max() < 8
    assert patches[1].min() >= 120 - 1e-6


@pytest.mark.parametrize(
    ("box", "side"), [((4, 4, 9, 20), 5), ((-10, -10, 3, 50), 3), ((6.2, 7.3, 6.4, 7.5), 1), ((0.4, 0, 20, 4.7), 4)]
)
def test_crop_shrinks_to_fit_the_box_and_the_frame(box, side):
    image = coordinates(20, 20)
    patches = sample_patches(image, torch.tensor([box]), 10, 16, side, distortion=0.0)[0]
    span = patches[:, :, -1, -1] - patches[:, :, 0, 0]
    torch.testing.assert_close(span, torch.full_like(span, side - 1.0), atol=1e-9, rtol=0)
    low, high = patches.amin((0, 2, 3)), patches.amax((0, 2, 3))
    for axis in range(2):
        assert low[axis] >= int(max(box[axis], 0)) - 1e-9
        assert high[axis] < min(box[axis + 2], 20)


def test_outside_the_crop_reads_fill_and_never_the_neighbourhood():
    image = torch.full((1, 1, 30, 30), 99.0)
    image[..., 10:20, 10:20] = 1
    patches = sample_patches(image, torch.tensor([[10, 10, 20, 20]]), 50, 10, 32, distortion=0.9, fill=0.25)
    assert patches.max() <= 1 + 1e-5
    assert patches.min() >= 0.25 - 1e-5
    assert (patches == 0.25).any()
    assert (patches > 0.99).any()


def test_same_generator_state_same_patches():
    image, boxes = torch.rand(1, 3, 40, 40), torch.tensor([[0, 0, 40, 40]])
    first, again = (sample_patches(image, boxes, 4, 20, 16, generator=seed()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_patches(image, boxes, 4, 20, 16, generator=seed(4)))
    assert not torch.equal(first[:, 0], first[:, 1])


@pytest.mark.parametrize(("crop", "distortion"), [(1, 0.5), (2, 1.0), (13, 0.5), (20, 1.0)])
def test_patch_by_patch_is_what_one_sampling_of_the_image_gives(crop, distortion):
    """The CPU reads patches one by one, other devices all at once: values and gradients, horizons included."""
    image = torch.randn(2, 3, 24, 30, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[2.0, 3, 22, 24], [0, 0, 30, 24]])
    drawing = seed()
    start, side = _draw_windows(image, boxes, 40, crop, drawing)
    corners = _draw_corners(side, distortion, drawing)
    expected = _sample(image, start, side, _perspective_grid(corners, side, 17), 0.3)
    got = sample_patches(image, boxes, 40, crop, 17, distortion=distortion, fill=0.3, generator=seed())
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((patches * weight).sum(), image)[0] for patches in (got, expected)]
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=0)


@pytest.mark.parametrize("crop", [1, 2, 3])
def test_smallest_windows_at_full_distortion_stay_finite(crop):
    image = torch.rand(1, 3, 10, 10, requires_grad=True)
    patches = sample_patches(image, torch.tensor([[0, 0, 10, 10]]), 50, crop, 7, distortion=1.0)
    assert patches.isfinite().all()
    assert torch.autograd.grad(patches.sum(), image)[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(3, 8, 8)}, r"image must be \[B, C, H, W\].*\[3, 8, 8\]"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes must be \[B, 4\] with B=1.*\[2, 4\]"),
        ({"boxes": torch.tensor([[5, 2, 5, 6]])}, r"box \[5, 2, 5, 6\] of sample 0 holds no pixel"),
        ({"boxes": torch.tensor([[9, 2, 12, 6]])}, "holds no pixel"),
        ({"boxes": torch.tensor([[-5, 2, -1, 6]])}, "holds no pixel"),
        ({"count": 0}, "count must be an integer and at least 1, got 0"),
        ({"count": 2.5}, "count must be an integer and at least 1, got 2.5"),
        ({"crop": 0}, "crop must be an integer"),
        ({"size": 4.0}, "size must be an integer"),
        ({"fill": float("nan")}, "fill must be a finite number, got nan"),
        ({"distortion": float("nan")}, "distortion must be a finite number"),
        ({"distortion": -0.1}, r"distortion must lie in 0\.\.1"),
        ({"boxes": torch.tensor([[0, 0, float("nan"), 5]])}, "holds no pixel"),
        ({"boxes": torch.ones(1, 4, dtype=torch.bool)}, "boxes must be numbers, got torch.bool"),
        ({"distortion": 1.5}, r"distortion must lie in 0\.\.1, got 1.5"),
        ({"generator": 3}, "generator must be a torch.Generator or None, got int"),
    ],
)
def test_misuse(change, message):
    arguments = {"image": torch.zeros(1, 3, 8, 8), "boxes": torch.tensor([[0, 0, 8, 8]])}
    with pytest.raises(ValueError, match=message):
        sample_patches(**({"count": 2, "crop": 4, "size": 4} | arguments | change))
