"""Every kernel on the device of a run (REGIONSTYLE_DEVICE, else the CPU) against float64 on the CPU."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from regionstyle import kernels
from regionstyle.kernels import _logsumexp
from regionstyle.kernels.logodds import token_logodds_reference

DEVICE = os.environ.get("REGIONSTYLE_DEVICE", "cpu")
pytestmark = pytest.mark.slow

# Largest error allowed, relative to the largest entry of the truth, or to 1 where that is smaller.
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HALVES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def cases_of_cuda():
    """What `tests/kernels/test_cuda.py` compares, whose calls put their masks where their tensors are."""
    file = Path(__file__).parents[1] / "kernels" / "test_cuda.py"
    spec = importlib.util.spec_from_file_location("test_cuda", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CUDA = cases_of_cuda()


@pytest.fixture(autouse=True)
def full_precision():
    """No rounding to ten bits inside of float32 products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def value_and_gradients(function, tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    result = function(*leaves)
    way = torch.randn(result.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).to(result.device)
    return [result.detach(), *torch.autograd.grad((result.double() * way).sum(), leaves)]


def agree(found, truth, dtype, slack=1.0):
    for got, expected in zip(found, truth, strict=True):
        assert got.device.type == DEVICE
        assert got.dtype == dtype
        error = (got.double().cpu() - expected.cpu()).abs().max() / expected.abs().max().cpu().clamp_min(1)
        assert float(error) <= slack * TOLERANCE[dtype]


@HALVES
@pytest.mark.parametrize("name", CUDA.CASES)
def test_agrees_with_float64(name, dtype):
    shapes, function = CUDA.CASES[name]
    rounded = [CUDA.numbers(*shape).to(dtype) for shape in shapes]
    found = value_and_gradients(function, [t.to(DEVICE) for t in rounded])
    agree(found, value_and_gradients(function, [t.double() for t in rounded]), dtype)


def layers(large):
    """Queries and keys of SD1.5's and SDXL's layers; small ones where no GPU would be done with these in a second."""
    sizes = [(4096, 40), (1024, 80), (256, 160), (4096, 64)] if large else [(130, 40), (70, 80), (33, 160), (130, 64)]
    return [pytest.param((2, 4, rows, width), (2, 4, 77, width), id=f"{rows}x{width}") for rows, width in sizes]


@HALVES
@pytest.mark.parametrize(("queries", "keys"), layers(DEVICE != "cpu"))
def test_logodds_of_real_layers_agree_with_float64(queries, keys, dtype):
    groups = torch.eye(8, 77, dtype=torch.bool, device=DEVICE)
    rounded = [CUDA.numbers(*shape).to(DEVICE, dtype) for shape in (queries, keys)]
    if DEVICE == "cuda":
        assert _logsumexp._fused(*rounded) is not None, "the fused kernels do not run on this GPU"
    found = value_and_gradients(lambda q, k: kernels.token_logodds(q, k, groups), rounded)
    exact = [t.double() for t in rounded]
    agree(found, value_and_gradients(lambda q, k: token_logodds_reference(q, k, groups), exact), dtype, 2.0)
