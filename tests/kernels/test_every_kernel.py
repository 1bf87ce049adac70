"""What holds for all kernels alike: layouts, batches, dtypes, devices, and what they say about wrong arguments."""

import pytest
import torch

import regionstyle.kernels as kernels

GROUPS = torch.eye(2, 7, dtype=torch.bool)
VALID = torch.arange(7) < 6
SUPPORT = torch.tensor([1, 0, 1, 1, 1, 0, 1], dtype=torch.bool)
PADDED = torch.tensor([[1, -1], [6, 0], [-1, -1]])
BOXES = torch.tensor([[0, 0, 9, 9], [2, 1, 9, 10], [0, 3, 4, 10]])
DOMAIN = (torch.rand(3, 1, 10, 9, generator=torch.Generator().manual_seed(5)) < 0.7).float()
PIXELS = (3, 2, 10, 9)


def patches(x, boxes=BOXES, **options):
    generator = torch.Generator().manual_seed(1)
    return kernels.sample_patches(x, boxes[: len(x)], 2, 5, 6, generator=generator, **options)


# name -> (shapes of the floating point arguments, their batch axes, the call)
CASES = {
    "token_attention": ([(3, 2, 9, 4), (3, 2, 7, 4)], 2, lambda q, k: kernels.token_attention(q, k, [1, 5])),
    "padded tokens": (
        [(3, 2, 9, 4), (3, 2, 7, 4)],
        2,
        lambda q, k: kernels.token_attention(q, k, PADDED[: len(q)], support=SUPPORT),
    ),
    "token_logodds": ([(3, 2, 9, 4), (3, 2, 7, 4)], 2, lambda q, k: kernels.token_logodds(q, k, GROUPS, VALID)),
    "routed_lora": (
        [(3, 5, 6), (3, 2), (2, 4, 6), (2, 7, 4), (2,)],
        2,
        lambda x, gate, down, up, scale: kernels.routed_lora(x, down, up, gate, scale),
    ),
    "dct2": ([(3, 9, 12)], 1, kernels.dct2),
    "idct2": ([(3, 9, 12)], 1, kernels.idct2),
    "low_pass": ([(3, 9, 12)], 1, lambda c: kernels.low_pass(c, 6)),
    "masked_pool": ([PIXELS, (3, 1, 10, 9)], 2, lambda x, mask: kernels.masked_pool(x, mask.abs() / 8)),
    "modulate": ([PIXELS, (3, 2), (3, 2), (3, 1, 10, 9)], 4, kernels.modulate),
    "adaptive_filter": ([PIXELS, (9,), (1,)], 1, kernels.adaptive_filter),
    "poisson_blend": ([PIXELS, PIXELS], 2, lambda s, t: kernels.poisson_blend(s, t, DOMAIN[: len(s)], tol=1e-11)),
    "sample_patches": ([PIXELS], 1, patches),
}
NAMES = list(CASES)


def numbers(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def arguments(name, dtype=torch.float64):
    return [numbers(shape, i).to(dtype) for i, shape in enumerate(CASES[name][0])]


def scattered(x):
    """The same numbers, last axis outermost in memory and every second place unused."""
    wide = x.new_full((x.shape[-1], *x.shape[:-1], 2), float("nan"))
    wide[..., 0] = x.movedim(-1, 0)
    return wide[..., 0].movedim(0, -1)


def with_gradients(call, tensors):
    leaves = [t.requires_grad_() for t in tensors]
    result = call(*leaves)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), leaves)]


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name):
    call = CASES[name][2]
    plain = with_gradients(call, arguments(name))
    for layout in (scattered, lambda x: x[..., None].expand(*x.shape, 2)[..., 1]):
        for got, expected in zip(with_gradients(call, [layout(t) for t in arguments(name)]), plain, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def test_channels_last_does_not_matter():
    for name in ("masked_pool", "modulate", "adaptive_filter", "poisson_blend", "sample_patches"):
        tensors = arguments(name)
        turned = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
        torch.testing.assert_close(CASES[name][2](*turned), CASES[name][2](*tensors), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_one_and_none(name):
    """A batch is its samples; of no samples, an empty result of the right shape and dtype, with gradients."""
    _, batched, call = CASES[name]
    whole, tensors = call(*arguments(name)), arguments(name)
    for count in (0, 1):
        part = [t[:count] if i < batched else t for i, t in enumerate(tensors)]
        results = with_gradients(call, [t.clone() for t in part])
        assert [r.shape for r in results[1:]] == [t.shape for t in part]
        assert results[0].shape == (count, *whole.shape[1:])
        if name != "sample_patches":  # whose draws depend on the batch
            torch.testing.assert_close(results[0], whole[:count], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tensor_decides_the_dtype_and_the_widest_the_precision(name):
    """float32 among float64: computed in float64, rounded once at the end."""
    call, tensors = CASES[name][2], arguments(name)
    first = 1 if name == "poisson_blend" else 0  # the target decides
    mixed = [t.float() if i == first else t for i, t in enumerate(tensors)]
    expected = call(*[t.double() for t in mixed])
    result = call(*mixed)
    assert result.dtype == torch.float32
    if len(tensors) > 1:
        torch.testing.assert_close(result.double(), expected, rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_not_written_to(name):
    tensors, again = arguments(name), arguments(name)
    CASES[name][2](*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, again, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(name, dtype):
    """Sums run in float32: the result is the float64 one to half a unit in the last place, and a little."""
    call, tensors = CASES[name][2], arguments(name, dtype)
    result, exact = call(*tensors), call(*[t.double() for t in tensors])
    assert result.dtype == dtype
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), exact, rtol=0.51 * unit, atol=1e-4 if name == "poisson_blend" else 2e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if len(CASES[n][0]) > 1])
def test_another_device_is_named(name):
    shapes, _, call = CASES[name]
    for index in range(1, len(shapes)):
        tensors = arguments(name)
        tensors[index] = tensors[index].to("meta")
        with pytest.raises(ValueError, match=r"must be on the device of \w+, (cpu|meta), got (meta|cpu)"):
            call(*tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["int", "list", "one axis more"])
def test_every_tensor_is_checked(name, wrong):
    change = {"int": torch.Tensor.long, "list": torch.Tensor.tolist, "one axis more": lambda t: t[None]}[wrong]
    if wrong != "list" and name in ("dct2", "idct2", "low_pass") and wrong == "one axis more":
        pytest.skip("any number of leading axes is right")
    shapes, _, call = CASES[name]
    for index, shape in enumerate(shapes):
        if shape == (3, 1, 10, 9) and wrong != "one axis more":
            continue  # a mask: see the next test
        tensors = arguments(name)
        tensors[index] = change(tensors[index])
        with pytest.raises(ValueError, match="must be"):
            call(*tensors)


def test_masks_may_be_of_any_real_kind():
    x, scale, shift = numbers(PIXELS), numbers((3, 2)), numbers((3, 2))
    calls = (
        lambda mask: kernels.masked_pool(x, mask),
        lambda mask: kernels.modulate(x, scale, shift, mask),
        lambda mask: kernels.poisson_blend(x, -x, mask, tol=1e-11),
    )
    for call in calls:
        expected = call(DOMAIN.double())
        for kind in (torch.bool, torch.uint8, torch.int64, torch.float16):
            torch.testing.assert_close(call(DOMAIN.to(kind)), expected)
        with pytest.raises(ValueError, match="mask must be real or bool, got torch.complex64"):
            call(DOMAIN.to(torch.complex64))
        with pytest.raises(ValueError, match="mask must be a tensor, got list"):
            call(DOMAIN.tolist())
