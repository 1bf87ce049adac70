"""What all kernel tests share: poisoned memory, and one comparison of forward and gradients with a reference."""

import gc

import pytest
import torch

# Largest error allowed, relative to the largest entry of the truth, or to 1 where that is smaller.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Memory that nobody wrote holds NaN (torch does this in deterministic mode), and every run draws the same."""
    torch.manual_seed(0)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def _relative_error(result, truth):
    assert result.shape == truth.shape
    if truth.numel() == 0:
        return 0.0
    return float((result.double() - truth).abs().max() / truth.abs().max().clamp_min(1))


def _gradients(function, tensors):
    """The result and its gradients for one fixed random direction."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    result = function(*leaves)
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    gradients = torch.autograd.grad((result.double() * direction).sum(), leaves, materialize_grads=True)
    return result.detach(), gradients


@pytest.fixture
def agree():
    """`agree(function, reference, tensors, dtype)`: forward and every gradient against the float64 reference.

    The truth is computed in float64 from the inputs as rounded to `dtype`.
    """

    def compare(function, reference, tensors, dtype, slack=1.0):
        rounded = [t.to(dtype) for t in tensors]
        result, gradients = _gradients(function, rounded)
        truth, true_gradients = _gradients(reference, [t.double() for t in rounded])
        assert result.dtype == dtype
        pairs = [("result", result, truth)]
        pairs += [(f"gradient {i}", *pair) for i, pair in enumerate(zip(gradients, true_gradients, strict=True))]
        for name, got, expected in pairs:
            error = _relative_error(got, expected)
            assert error <= slack * TOLERANCE[dtype], f"{name}: relative error {error:.2e} in {dtype}"

    return compare


def _living(kinds):
    return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())


@pytest.fixture
def no_leak():
    """`no_leak(make)`: the graph of what `make()` returns is freed as soon as the result is dropped.

    Counted without the garbage collector: a reference cycle would keep whole feature maps until its next run.
    """

    def check(make, *kinds):
        kinds = (torch.autograd.function.BackwardCFunction, *kinds)
        gc.collect()
        gc.disable()
        try:
            before = _living(kinds)
            result = make()
            assert _living(kinds) > before, "nothing to watch"
            result.sum().backward()
            del result
            assert _living(kinds) == before, "the graph outlives its result"
        finally:
            gc.enable()

    return check
