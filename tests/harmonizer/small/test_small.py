"""The small harmoniser: what it sees, the bilateral grid, and the shipped network on photographs it never saw."""

import math

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.base import Harmonizer
from regionstyle.nodes.harmonizer.paste import paste_back
from regionstyle.nodes.harmonizer.small.bilateral import apply_grid, fit_grid
from regionstyle.nodes.harmonizer.small.files import SHIPPED, load_network
from regionstyle.nodes.harmonizer.small.harmonizer import SmallHarmonizer, foreground_boxes, looking_size
from regionstyle.nodes.harmonizer.small.look import Look, border_pairs, carried_on, membrane, sides
from regionstyle.nodes.harmonizer.small.network import DOUBT, hesitant


def smooth(h, w, seed=0):
    small = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (h, w), mode="bicubic", align_corners=True).clamp(0.02, 0.98)


def disc(h, w, share=0.3):
    y, x = torch.arange(h)[:, None] - h / 2, torch.arange(w)[None] - w / 2
    return ((y**2 + x**2) < (min(h, w) * share) ** 2).float()[None, None]


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean().clamp_min(1e-12)))


def test_both_sides_keep_their_colours():
    picture, mask = torch.full((1, 3, 64, 96), 0.2), disc(64, 96)
    picture = torch.where(mask > 0, 0.8, picture)
    foreground, background, share = sides(picture, mask, (16, 32))
    assert (foreground[share.expand_as(foreground) > 0.01] - 0.8).abs().max() < 1e-4
    assert (background[share.expand_as(background) < 0.99] - 0.2).abs().max() < 1e-4
    torch.testing.assert_close(share.mean(), mask.mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize("soft", [0, 3, 9])
def test_pairs_cross_the_border_however_soft_it_is(soft):
    mask = disc(64, 64)
    picture = torch.where(mask > 0, 0.8, torch.full((1, 3, 64, 64), 0.2))
    if soft:
        mask = torch.nn.functional.avg_pool2d(mask, soft, 1, soft // 2)
        picture = 0.8 * mask + 0.2 * (1 - mask).expand(1, 3, -1, -1)
    pairs = border_pairs(picture, mask, (16, 16)).sum((2, 3))[0]
    assert pairs[7] > 40
    assert abs(float(pairs[0] / pairs[7]) - 0.8) < 0.04
    assert abs(float(pairs[3] / pairs[7]) - 0.2) < 0.04


def test_a_mask_at_the_frame_has_pairs_only_inside_the_picture():
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :10, :] = 1
    assert int(border_pairs(torch.rand(1, 3, 20, 20), mask, (16, 16))[:, 7].sum()) == 20
    assert int(border_pairs(torch.rand(1, 3, 20, 20), mask * 0 + 1, (16, 16))[:, 7].sum()) == 0


def test_values_are_carried_on():
    values, weight = torch.zeros(1, 1, 32, 48), torch.zeros(1, 1, 32, 48)
    values[..., 0], weight[..., 0] = 1, 1
    values[..., -1], weight[..., -1] = 3, 1
    ramp = membrane(values, weight)[0, 0, 16]
    assert ramp[0] == 1
    assert ramp[-1] == 3
    assert (ramp.diff() > -1e-3).all()
    assert abs(float(ramp[24]) - 2) < 0.2
    assert carried_on(values, weight * 0).abs().max() == 0


def test_the_grid_carries_an_affine_change_exactly():
    """Fitted at 32 x 48, applied at 320 x 480: detail that was never seen small goes along."""
    fine = smooth(320, 480) * 0.6 + 0.2 * torch.rand(1, 3, 320, 480)
    matrix = torch.tensor([[0.8, 0.1, 0.0], [0.05, 0.9, 0.0], [0.0, 0.1, 1.1]])
    change = lambda x: torch.einsum("cd,bdhw->bchw", matrix, x) + 0.03  # noqa: E731
    small = torch.nn.functional.interpolate(fine, (32, 48), mode="area")
    grid = fit_grid(small, change(small), torch.ones(1, 1, 32, 48))
    made = torch.empty_like(fine)
    apply_grid(grid, fine, made)
    assert (made - change(fine)).abs().max() < 0.01
    part = torch.empty(1, 3, 100, 50)
    apply_grid(grid, fine[..., 40:140, 70:120], part, (slice(40, 140), slice(70, 120)), (320, 480))
    torch.testing.assert_close(part, made[..., 40:140, 70:120], atol=1e-5, rtol=0)


def test_the_grid_follows_a_change_that_varies():
    picture = smooth(64, 64, 1)
    ramp = torch.linspace(-0.2, 0.2, 64).expand(1, 3, 64, 64)
    made = torch.empty_like(picture)
    apply_grid(fit_grid(picture, picture + ramp, torch.ones(1, 1, 64, 64)), picture, made)
    assert (made - picture - ramp).abs().mean() < 0.02


def test_an_empty_weight_changes_nothing():
    picture, made = smooth(32, 32), torch.empty(1, 3, 32, 32)
    apply_grid(fit_grid(picture, picture * 0.5, torch.zeros(1, 1, 32, 32)), picture, made)
    torch.testing.assert_close(made, picture)


@pytest.mark.parametrize(("shape", "size"), [((300, 300), (96, 96)), ((100, 400), (32, 96)), ((2000, 10), (96, 16))])
def test_the_size_looked_at(shape, size):
    assert looking_size(shape) == size


def test_boxes_stay_in_the_picture():
    mask = torch.zeros(1, 1, 50, 60)
    mask[..., 0:20, 30:60] = 1
    assert foreground_boxes(mask) == ((slice(0, 20), slice(30, 60)), (slice(0, 32), slice(12, 60)))


def test_what_the_border_contradicts_is_held_back():
    """A change of 0.1 is kept where one map explains the border, and halved where that leaves 0.1 / DOUBT."""
    plain = torch.full((2, 3, 16, 16), 0.4)
    mask, nothing = torch.ones(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    seen = Look(plain, plain, mask, nothing, plain, plain, nothing)
    made = hesitant(seen, plain + 0.1, torch.tensor([0.0, 0.1 / DOUBT]))
    torch.testing.assert_close(made[0], plain[0] + 0.1)
    torch.testing.assert_close(made[1], plain[1] + 0.05)
    assert torch.equal(hesitant(seen, plain, torch.zeros(2)), plain)


@pytest.fixture(scope="module")
def shipped():
    return SmallHarmonizer()


def test_the_shipped_file_is_small(shipped):
    assert SHIPPED.stat().st_size < 5_000_000
    assert isinstance(shipped, Harmonizer)
    assert len(load_network().state_dict()) > 10


@pytest.mark.parametrize("size", [(96, 128), (301, 217), (40, 500)])
def test_a_jittered_part_comes_back(shipped, size):
    picture, mask = smooth(*size, seed=3), disc(*size)
    composite = torch.where(mask > 0, (picture * 0.7 + 0.02).clamp(0, 1), picture)
    made = paste_back(composite, shipped.harmonize(composite, mask), mask)
    assert torch.equal(made * (1 - mask), composite * (1 - mask))
    inside = mask.expand_as(made) > 0
    assert (made - picture)[inside].square().mean() < 0.25 * (composite - picture)[inside].square().mean()


def test_several_pictures_are_done_one_by_one(shipped):
    pictures, masks = torch.cat([smooth(64, 80, 1), smooth(64, 80, 2)]), torch.cat([disc(64, 80), disc(64, 80, 0.2)])
    seen = []
    both = shipped.harmonize(pictures, masks, on_step=lambda done, total, preview: seen.append((done, total)))
    assert torch.equal(both[1:], shipped.harmonize(pictures[1:], masks[1:]))
    assert seen == [(1, 2), (2, 2)]


def test_a_reference_changes_the_answer(shipped):
    picture, mask = smooth(64, 80, 1), disc(64, 80)
    dark, bright = (torch.full((1, 3, 30, 30), value) + 0.05 * torch.rand(1, 3, 30, 30) for value in (0.05, 0.9))
    results = [shipped.harmonize(picture, mask, reference=reference) for reference in (dark, bright)]
    inside = mask.expand_as(picture) > 0
    assert results[1][inside].mean() - results[0][inside].mean() > 0.5
    assert abs(results[0][inside].mean() - 0.075) < 0.03, "the reference's own mean"
    everything = shipped.harmonize(picture, mask * 0 + 1, reference=dark)
    assert everything.isfinite().all()


def test_cancelled_between_pictures(shipped):
    def cancel(done, total, preview):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shipped.harmonize(smooth(32, 32), disc(32, 32), on_step=cancel)


@pytest.mark.parametrize(
    ("picture", "mask", "message"),
    [
        (smooth(32, 32), torch.zeros(1, 1, 32, 32), "mask: got 0 pixels inside"),
        (smooth(32, 32), torch.ones(1, 1, 32, 32), "covers all of picture 1"),
        (smooth(32, 32), torch.ones(1, 1, 32, 31), "mask: got"),
        (smooth(32, 32)[0], disc(32, 32), "composite: got"),
        (smooth(32, 32) * 255, disc(32, 32), "composite: got values"),
        (smooth(32, 32).half().double() * float("nan"), disc(32, 32), "composite: got values nan"),
    ],
)
def test_what_is_refused(shipped, picture, mask, message):
    with pytest.raises(RegionStyleError, match=message):
        shipped.harmonize(picture, mask)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(RegionStyleError, match="harmonizer: got"):
        load_network(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(RegionStyleError, match=r"bad\.safetensors"):
        load_network(tmp_path / "bad.safetensors")


@pytest.mark.slow
def test_photographs_it_never_saw():
    """The marks of the bundled network, against every classical method, in each band of foreground ratio."""
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    from regionstyle.nodes.app.evaluation.harmony import METHODS, score_composites
    from regionstyle.nodes.metrics.harmonization import harmonization_table

    scores, kept = score_composites(90)
    table = {name: {row.ratio: row for row in harmonization_table(own)} for name, own in scores.items()}
    assert set(table) == set(METHODS)

    def value(name, ratio, metric):
        return next(m.value for m in table[name][ratio].measurements if m.name == metric)

    for ratio in table["bundled"]:
        assert value("bundled", ratio, "fMSE") < 0.5 * value("unchanged", ratio, "fMSE"), ratio
        for name in ("reinhard", "mkl", "histogram", "poisson"):
            assert value("bundled", ratio, "fMSE") < value(name, ratio, "fMSE"), (ratio, name)
            assert value("bundled", ratio, "PSNR") > value(name, ratio, "PSNR"), (ratio, name)
    assert sum(kept) / len(kept) > 45  # dB: what fits already
    assert sum(k > 39 for k in kept) / len(kept) > 0.8
    assert all(math.isfinite(k) for k in kept)


@pytest.mark.slow
def test_twelve_million_pixels(shipped):
    """Memory stays bounded: strips; time is measured in tests/bench."""
    picture, mask = torch.rand(1, 3, 3000, 4000), disc(3000, 4000)
    made = shipped.harmonize(picture, mask)
    assert made.shape == picture.shape
    assert made.isfinite().all()
