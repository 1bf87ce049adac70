"""Every kernel on a GPU gives what it gives on the CPU, in value and gradient."""

import pytest
import torch

import regionstyle.kernels as kernels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


GROUPS = torch.eye(2, 9, dtype=torch.bool)
PADDED = torch.tensor([[1, -1], [3, 8]])
MASK = (numbers(2, 1, 20, 23) > -1).double()
CASES = {
    "token_attention": ([(2, 2, 33, 4), (2, 2, 9, 4)], lambda q, k: kernels.token_attention(q, k, [1, 5])),
    "padded tokens": ([(2, 2, 33, 4), (2, 2, 9, 4)], lambda q, k: kernels.token_attention(q, k, PADDED.to(q.device))),
    "tokens on the CPU": ([(2, 2, 33, 4), (2, 2, 9, 4)], lambda q, k: kernels.token_attention(q, k, PADDED)),
    "token_logodds": (
        [(2, 2, 33, 4), (2, 2, 9, 4)],
        lambda q, k: kernels.token_logodds(q, k, GROUPS.to(q.device)),
    ),
    "groups on the CPU": ([(2, 2, 33, 4), (2, 2, 9, 4)], lambda q, k: kernels.token_logodds(q, k, GROUPS)),
    "routed_lora": ([(2, 5, 6), (3, 4, 6), (3, 7, 4), (2, 3), (3,)], kernels.routed_lora),
    "dct2": ([(2, 9, 12)], kernels.dct2),
    "idct2": ([(2, 9, 12)], kernels.idct2),
    "low_pass": ([(2, 9, 12)], lambda c: kernels.low_pass(c, torch.tensor([2, 7]))),
    "spectrum_distance": ([(2, 3, 9, 12), (2, 3, 9, 12)], lambda a, b: kernels.spectrum_distance(a, b, 6, power=2)),
    "masked_pool": ([(2, 3, 20, 23)], lambda x: kernels.masked_pool(x, MASK.to(x.device))),
    "modulate": ([(2, 3, 6, 7), (2, 3), (2, 3), (2, 1, 6, 7)], kernels.modulate),
    "adaptive_filter": ([(2, 3, 9, 12), (9,), (1,)], kernels.adaptive_filter),
    "poisson_blend": (
        [(2, 3, 20, 23), (2, 3, 20, 23)],
        lambda s, t: kernels.poisson_blend(s, t, MASK.to(s.device), tol=1e-12),
    ),
    "sample_patches": (
        [(2, 3, 20, 23)],
        lambda x: kernels.sample_patches(
            x, torch.tensor([[0, 0, 20, 20]] * 2), 3, 9, 12, generator=torch.Generator().manual_seed(1)
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_cpu(name):
    shapes, function = CASES[name]
    outcomes = []
    for device in ("cpu", "cuda"):
        leaves = [numbers(*shape).to(device).requires_grad_() for shape in shapes]
        result = function(*leaves)
        assert result.device.type == device
        gradients = torch.autograd.grad(result.square().sum(), leaves)
        outcomes.append([x.detach().cpu() for x in (result, *gradients)])
    for on_cpu, on_gpu in zip(*outcomes, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_fused_attention_agrees_with_plain_torch(dtype, monkeypatch):
    from regionstyle.kernels import _logsumexp

    pytest.importorskip("triton", reason="Triton is not installed")
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU multiplies no bfloat16")
    q, k = (numbers(*shape).to("cuda", dtype).requires_grad_() for shape in ((2, 3, 1100, 40), (2, 3, 77, 40)))
    assert _logsumexp._fused(q, k) is not None, "the fused kernels do not run on this GPU"
    outcomes = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(_logsumexp, "_fused", lambda q, k: None)
        result = kernels.token_logodds(q, k, torch.eye(2, 77, dtype=torch.bool, device="cuda"))
        outcomes.append([result.detach(), *torch.autograd.grad(result.float().square().sum(), (q, k))])
    close = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    for fused, wanted in zip(*outcomes, strict=True):
        torch.testing.assert_close(fused.float(), wanted.float(), atol=close * float(wanted.abs().max()), rtol=close)


def test_attention_map_is_never_allocated():
    q, k = (torch.randn(1, 4, 8192, 32, device="cuda", requires_grad=True) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernels.token_attention(q, k, [3]).sum().backward()
    one_map = 8192 * 8192 * 4
    assert torch.cuda.max_memory_allocated() - before < one_map


def test_token_lists_do_not_wait_for_the_device():
    q, k = (torch.randn(1, 2, 64, 8, device="cuda") for _ in range(2))
    kernels.token_attention(q, k, [3, 4])
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.token_attention(q, k, [3, 4])
    finally:
        torch.cuda.set_sync_debug_mode("default")
