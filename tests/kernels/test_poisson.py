import warnings

import pytest
import torch

from regionstyle.kernels import poisson_blend
from regionstyle.kernels._multigrid import MaskedLaplacian
from regionstyle.kernels.poisson import poisson_blend_reference

MODES = ["import", "mixed", "average"]


def disc(h, w):
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)[None]
    return ((y**2 + x**2) < 0.7).float()


def shapes(h, w):
    """Domains of every kind, as name -> mask `[h,w]`."""
    ring, halves, corner, noise, line = (torch.zeros(h, w) for _ in range(5))
    ring[1:-1, 1:-1], ring[h // 2, w // 2] = 1, 0
    halves[:, : w // 3], halves[1, w - 2] = 1, 1
    corner[h // 2 :, w // 2 :] = 1
    noise[torch.rand(h, w) < 0.7] = 1
    line[h // 2] = 1
    full, empty = torch.ones(h, w), torch.zeros(h, w)
    pin = full.clone()
    pin[0, 0] = 0
    return {
        "disc": disc(h, w), "hole": ring, "two parts": halves, "frame corner": corner, "noise": noise, "line": line,
        "whole frame": full, "empty": empty, "one fixed pixel": pin,
    }  # fmt: skip


KINDS = list(shapes(4, 4))


def images(h, w, b=1, c=2):
    return [torch.randn(b, c, h, w, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(3, 5), (9, 9), (13, 22), (8, 1)], ids=str)
def test_agrees_with_a_dense_solve(size, kind, mode, agree):
    if min(size) < 3 and kind == "two parts":
        pytest.skip("does not fit")
    mask = shapes(*size)[kind].expand(1, 1, *size)
    agree(
        lambda s, t: poisson_blend(s, t, mask, mode=mode, tol=1e-12),
        lambda s, t: poisson_blend_reference(s, t, mask, mode=mode),
        images(*size),
        torch.float64,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype, agree):
    mask = disc(21, 30).expand(1, 1, 21, 30)
    agree(
        lambda s, t: poisson_blend(s, t, mask, tol=1e-6),
        lambda s, t: poisson_blend_reference(s, t, mask),
        images(21, 30),
        dtype,
        slack=2,
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("disc", "mixed"), ("disc", "average"), ("two parts", "import"), ("whole frame", "import"), ("noise", "import")],
)
def test_gradcheck(kind, mode):
    """On 72 pixels: two levels."""
    mask = shapes(8, 9)[kind].expand(1, 1, 8, 9)
    pair = [t.requires_grad_() for t in images(8, 9, c=1)]
    assert torch.autograd.gradcheck(lambda s, t: poisson_blend(s, t, mask, mode=mode, tol=1e-13), pair, fast_mode=True)


def test_second_gradient():
    mask = disc(5, 5).expand(1, 1, 5, 5)
    pair = [t.requires_grad_() for t in images(5, 5, c=1)]
    assert torch.autograd.gradgradcheck(lambda s, t: poisson_blend(s, t, mask, tol=1e-13).square(), pair)


def test_samples_and_channels_are_independent():
    masks = torch.stack(list(shapes(12, 17).values()))[:, None]
    s, t = images(12, 17, b=len(masks), c=3)
    together = poisson_blend(s, t, masks, tol=1e-11)
    for i in range(len(masks)):
        for c in range(3):
            alone = poisson_blend(s[i : i + 1, c : c + 1], t[i : i + 1, c : c + 1], masks[i : i + 1], tol=1e-11)
            torch.testing.assert_close(together[i, c], alone[0, 0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_into_itself_is_bit_equal(mode):
    image = torch.rand(1, 3, 40, 50)
    assert torch.equal(poisson_blend(image, image, disc(40, 50).expand(1, 1, 40, 50), mode=mode), image)


def test_offset_of_the_source_does_not_matter_and_of_the_target_carries_over():
    s, t = (torch.rand(1, 3, 64, 64) for _ in range(2))
    mask = disc(64, 64).expand(1, 1, 64, 64)
    result = poisson_blend(s, t, mask)
    torch.testing.assert_close(poisson_blend(s + 5, t, mask), result, atol=1e-3, rtol=0)
    torch.testing.assert_close(poisson_blend(s, s + 0.25, mask), s + 0.25, atol=1e-4, rtol=0)


def test_ramp_between_two_fixed_columns():
    """No guidance between a column of 0 and one of 4: a straight ramp, also along the open frame edges."""
    target = torch.zeros(1, 1, 3, 5)
    target[..., 4] = 4
    mask = torch.tensor([0.0, 1, 1, 1, 0]).expand(1, 1, 3, 5)
    expected = torch.arange(5.0).expand(1, 1, 3, 5)
    torch.testing.assert_close(poisson_blend(torch.zeros_like(target), target, mask, tol=1e-7), expected)


def test_mixed_takes_the_stronger_edge_of_each():
    """One row, ends fixed at 0 and 5: source steps 5 once, target steps once elsewhere by 1."""
    source = torch.tensor([0.0, 0, 0, 5, 5, 5, 5]).view(1, 1, 1, 7)
    target = torch.tensor([0.0, 0, 0, 0, 0, 1, 1]).view(1, 1, 1, 7)
    mask = torch.tensor([0.0, 1, 1, 1, 1, 1, 0]).view(1, 1, 1, 7)
    # Guidance 0 0 5 0 1 0 sums to 6, but the ends differ by 1: each of six edges gives back 5/6.
    expected = (torch.tensor([0.0, 0, 0, 5, 5, 6, 6]) - torch.arange(7) * 5 / 6).view(1, 1, 1, 7)
    torch.testing.assert_close(poisson_blend(source, target, mask, mode="mixed", tol=1e-7), expected)


def test_mixed_keeps_the_target_on_a_tie():
    source, target = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
    source[..., 1], target[..., 1] = -1, 1
    mask = torch.tensor([0.0, 1, 0]).view(1, 1, 1, 3)
    assert torch.equal(poisson_blend(source, target, mask, mode="mixed"), target)


def test_whole_frame_keeps_the_targets_mean():
    s, t = images(20, 33, c=3)
    result = poisson_blend(s, t, torch.ones(1, 1, 20, 33), tol=1e-11)
    torch.testing.assert_close(result, s - s.mean((-2, -1), keepdim=True) + t.mean((-2, -1), keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outside_is_bit_equal(dtype):
    s, t = (torch.rand(2, 3, 31, 20).to(dtype) for _ in range(2))
    mask = torch.rand(2, 1, 31, 20)
    result = poisson_blend(s, t, mask)
    outside = (mask <= 0.5).expand_as(t)
    assert torch.equal(result[outside], t[outside])
    assert not torch.equal(result, t)


def test_the_domain_is_above_one_half():
    s, t = images(6, 6)
    soft = torch.tensor([0.5, 0.50001, 0.2, 1.0, 0.49, 0.9]).expand(1, 1, 6, 6)
    torch.testing.assert_close(poisson_blend(s, t, soft), poisson_blend(s, t, soft > 0.5))


def test_what_lies_far_from_the_domain_is_not_read():
    """Not a number two pixels away, but inside the box around both parts of the domain."""
    s, t = images(9, 12)
    mask = torch.zeros(1, 1, 9, 12)
    mask[..., 1:3, 1:3] = mask[..., 6:8, 8:11] = 1
    expected = poisson_blend(s, t, mask, tol=1e-11)
    s[..., 2, 9] = t[..., 2, 9] = t[..., 6, 3] = float("nan")
    leaves = [x.requires_grad_() for x in (s, t)]
    result = poisson_blend(*leaves, mask, tol=1e-11)
    number = result.isfinite()
    assert (~number).sum() == 2 * 2
    torch.testing.assert_close(result[number], expected[number])
    assert all(g.isfinite().all() for g in torch.autograd.grad(result[mask.expand_as(result) > 0.5].sum(), leaves))


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_size_of_the_numbers_does_not_matter(size):
    """Squares of these leave the range of float32, in the solution and in the gradient."""
    s, t = (x.float() for x in images(12, 15))
    mask = disc(12, 15).expand(1, 1, 12, 15)
    torch.testing.assert_close(
        poisson_blend(s * size, t * size, mask, tol=1e-6) / size, poisson_blend(s, t, mask, tol=1e-6), atol=1e-4, rtol=0
    )
    s.requires_grad_()
    plain, scaled = (torch.autograd.grad((poisson_blend(s, t, mask) * k).square().mean() * k, s)[0] for k in (1, 1e-8))
    torch.testing.assert_close(scaled * 1e24, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)], ids=str)
def test_empty_pictures(shape):
    empty = torch.zeros(shape, requires_grad=True)
    result = poisson_blend(empty, empty, torch.zeros(shape[0], 1, *shape[2:]))
    assert result.shape == shape
    result.sum().backward()


def test_inputs_are_not_changed():
    s, t = images(9, 9)
    mask = disc(9, 9).expand(1, 1, 9, 9).clone()
    copies = [x.clone() for x in (s, t, mask)]
    poisson_blend(s, t, mask)
    assert all(torch.equal(a, b) for a, b in zip((s, t, mask), copies, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
def test_residual_is_below_tol(kind, tol):
    mask = shapes(45, 64)[kind].expand(1, 1, 45, 64) > 0.5
    rhs = torch.randn(1, 2, 45, 64, dtype=torch.float64) * mask
    if mask.all():
        rhs = rhs - rhs.mean((-2, -1), keepdim=True)
    operator = MaskedLaplacian(mask, torch.float64)
    residual = rhs - operator.apply(operator.solve(rhs, tol))
    assert (residual.norm(dim=(-2, -1)) <= 1.001 * tol * rhs.norm(dim=(-2, -1))).all()


@pytest.mark.parametrize("kind", ["disc", "hole", "noise", "whole frame", "one fixed pixel", "frame corner"])
@pytest.mark.parametrize("size", [(33, 70), (128, 128), (200, 16)], ids=str)
def test_iterations_do_not_grow(kind, size, monkeypatch):
    """The point of multigrid. Twelve digits in 25 iterations, whatever the size and shape."""
    mask = shapes(*size)[kind].expand(1, 1, *size)
    s, t = images(*size)
    monkeypatch.setattr("regionstyle.kernels._multigrid._MAX_ITERATIONS", 25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poisson_blend(s, t, mask, tol=1e-12)


def test_preconditioner_is_symmetric_and_positive():
    mask = shapes(17, 20)["noise"].expand(1, 1, 17, 20) > 0.5
    operator = MaskedLaplacian(mask, torch.float64)
    x, y = (torch.randn(1, 1, 17, 20, dtype=torch.float64) * mask for _ in range(2))
    mx, my = operator._precondition(x), operator._precondition(y)
    torch.testing.assert_close((mx * y).sum(), (x * my).sum())
    assert (mx * x).sum() > 0
    assert (my * y).sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disc", "noise", "whole frame"])
def test_work_grows_with_the_number_of_pixels(kind, monkeypatch):
    """Pixels touched by all applications of all operators, per pixel of the picture: counted, because a clock lies."""
    touched = []
    apply = MaskedLaplacian._apply
    monkeypatch.setattr(
        MaskedLaplacian, "_apply", lambda self, depth, u: touched.append(u.numel()) or apply(self, depth, u)
    )

    def per_pixel(n):
        touched.clear()
        poisson_blend(*(torch.rand(1, 1, n, n) for _ in range(2)), shapes(n, n)[kind].expand(1, 1, n, n))
        return sum(touched) / n**2

    work = [per_pixel(n) for n in (64, 128, 256, 512, 1024)]
    assert max(work) < 120, work
    assert work[-1] < 1.5 * work[0], work


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.zeros(1, 3, 4, 6)}, r"source must be \[B, C, H, W\].*\[1, 3, 4, 6\]"),
        ({"mask": torch.zeros(1, 3, 4, 5)}, r"mask must be \[B, 1, H, W\].*\[1, 3, 4, 5\]"),
        ({"target": torch.zeros(3, 4, 5)}, r"target must be \[B, C, H, W\].*\[3, 4, 5\]"),
        ({"mode": "normal"}, "mode must be one of import, mixed, average, got 'normal'"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": float("inf")}, "tol must be a finite number, got inf"),
        ({"tol": "fine"}, "tol must be a finite number"),
        ({"source": torch.zeros(1, 3, 4, 5).long()}, "source must be floating point"),
        ({"source": torch.full((1, 3, 4, 5), float("nan")), "mask": torch.ones(1, 1, 4, 5)}, "must be finite"),
        ({"target": torch.full((1, 3, 4, 5), float("inf")), "mask": torch.ones(1, 1, 4, 5)}, "must be finite"),
        ({"mask": torch.full((1, 1, 4, 5), float("nan"))}, r"mask \[1, 1, 4, 5\] holds NaN"),
    ],
)
def test_misuse(change, message):
    arguments = {"source": torch.zeros(1, 3, 4, 5), "target": torch.zeros(1, 3, 4, 5), "mask": torch.zeros(1, 1, 4, 5)}
    with pytest.raises(ValueError, match=message):
        poisson_blend(**(arguments | change))


def test_graph_is_freed(no_leak):
    s, t = (x.requires_grad_() for x in images(9, 9))
    no_leak(lambda: poisson_blend(s, t, disc(9, 9).expand(1, 1, 9, 9)), MaskedLaplacian)


def test_agrees_with_a_sparse_direct_solve():
    """A picture too large for the dense definition, by scipy's LU factors."""
    sparse = pytest.importorskip("scipy.sparse")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    h, w = 120, 90
    source, target = images(h, w, c=1)
    mask = shapes(h, w)["disc"].bool() | (torch.rand(h, w) < 0.1)
    number = {tuple(at): i for i, at in enumerate(mask.nonzero().tolist())}
    matrix, known = sparse.lil_matrix((len(number), len(number))), torch.zeros(len(number), dtype=torch.float64)
    for (y, x), i in number.items():
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= q[0] < h and 0 <= q[1] < w):
                continue
            matrix[i, i] += 1
            known[i] += source[0, 0, y, x] - source[0, 0][q]
            if q in number:
                matrix[i, number[q]] = -1
            else:
                known[i] += target[0, 0][q]
    exact = torch.from_numpy(linalg.spsolve(matrix.tocsc(), known.numpy()))
    made = poisson_blend(source, target, mask[None, None].double(), tol=1e-12)
    torch.testing.assert_close(made[0, 0][mask], exact, atol=1e-8, rtol=0)


def test_agrees_with_opencv_where_the_mask_is_a_rectangle():
    """OpenCV solves on the rectangle around the mask, and keeps the target's gradients in its outermost pixels: where
    both pictures have the same ones there, that is the same problem, but for 8 bits."""
    cv2 = pytest.importorskip("cv2")
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6) * 0.3 + 0.4, (64, 64), mode="bicubic")
    hill = (1 - torch.linspace(-3, 3, 64).square()).clamp_min(0)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 15:49, 15:49] = 1
    pair = ((smooth - 0.2 + 0.25 * hill[:, None] * hill), smooth)
    given = [(x[0].permute(1, 2, 0) * 255).round().byte().numpy().copy() for x in pair]
    theirs = cv2.seamlessClone(*given, (mask[0, 0] * 255).byte().numpy(), (32, 32), cv2.NORMAL_CLONE)
    ours = poisson_blend(*(torch.from_numpy(x).permute(2, 0, 1)[None] / 255.0 for x in given), mask)
    difference = (ours[0].permute(1, 2, 0) * 255 - torch.from_numpy(theirs).float()).abs()
    assert difference.mean() < 1
    assert difference.max() < 4
    assert (torch.from_numpy(theirs).float() - torch.from_numpy(given[1]).float()).abs().max() > 30


def test_a_mask_whose_coarsest_matrix_has_many_equal_eigenvalues():
    """LAPACK's float32 eigenvalues did not converge for it: two thin arcs along the frame."""
    mask = torch.zeros(1, 1, 23, 75)
    mask[..., :2, 20:60] = mask[..., 21:, 5:40] = mask[..., 10:12, 60:75] = 1
    s, t = (torch.rand(1, 3, 23, 75) for _ in range(2))
    assert poisson_blend(s, t, mask, tol=1e-6).isfinite().all()


@pytest.mark.parametrize("size", [(9, 9), (10, 13), (24, 31), (5, 40)], ids=str)
def test_the_coarse_operators_are_galerkin_products(size):
    """Read off by applying P^T A P to colourings, and by one convolution."""
    operator = MaskedLaplacian(shapes(2 * size[0], 2 * size[1])["noise"][None, None] > 0.5, torch.float64)
    for depth in range(len(operator.levels) - 1):
        operator.levels, kept = operator.levels[: depth + 1], operator.levels
        torch.testing.assert_close(operator._coarsen().stencil, operator._probed(), atol=1e-12, rtol=0)
        operator.levels = kept
    fine, coarse = operator.finest, operator.levels[0].stencil
    u, v = (torch.randn(1, 1, *coarse.shape[-2:], dtype=torch.float64) for _ in range(2))

    def up(c):
        full = torch.nn.functional.interpolate(
            c, (2 * c.shape[-2] - 1, 2 * c.shape[-1] - 1), mode="bilinear", align_corners=True
        )
        return fine.split(full[..., : fine.height, : fine.width]) * fine.inside

    from regionstyle.kernels._multigrid import _nine_point

    torch.testing.assert_close((_nine_point(coarse, u) * v).sum(), (fine.apply(up(u)) * up(v)).sum())
