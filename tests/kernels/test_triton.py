"""The fused kernels without a GPU: their numbers in Triton's interpreter, and their code through its compiler."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")
CASES = Path(__file__).parent / "interpreted_cases.py"


@pytest.mark.slow
def test_agrees_with_the_definitions_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_float64_and_wide_heads_stay_with_plain_torch():
    from regionstyle.kernels.triton.logsumexp import supports

    one = torch.ones(1, 1, 2, 4)
    assert supports(one, one)
    assert not supports(one.double(), one.double())
    assert not supports(one.half(), one)
    assert not supports(one.expand(1, 1, 2, 4).repeat(1, 1, 1, 65), one)
    assert not supports(one[:, :, :0], one)


def test_without_a_gpu_a_warning_says_that_no_kernel_runs(caplog):
    from regionstyle.kernels.triton.logsumexp import works_on

    assert not works_on.__wrapped__(torch.device("cpu"), torch.float32)
    assert "cpu: the fused attention kernel cannot be used for torch.float32" in caplog.text


def test_bfloat16_is_not_tried_on_gpus_without_it(monkeypatch, caplog):
    from regionstyle.kernels.triton.logsumexp import works_on

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not works_on.__wrapped__(torch.device("cuda", 0), torch.bfloat16)
    assert "before compute capability 8.0" in caplog.text


def test_a_full_gpu_is_no_verdict_on_triton(monkeypatch):
    from regionstyle.kernels.triton import logsumexp as fused

    def full(*arguments):
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(fused, "forward", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fused.works_on.__wrapped__(torch.device("cpu"), torch.float32)


def test_a_wrong_number_is_warned_about(monkeypatch, caplog):
    from regionstyle.kernels.triton import logsumexp as fused

    monkeypatch.setattr(fused, "forward", lambda *arguments: torch.tensor(float("nan")))
    assert not fused.works_on.__wrapped__(torch.device("cpu"), torch.float32)
    assert "nan for 16" in caplog.text


def test_a_broken_triton_is_warned_about(monkeypatch, caplog):
    from regionstyle.kernels import _logsumexp
    from regionstyle.kernels import triton as package

    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))  # it has no `jit`
    monkeypatch.delitem(sys.modules, f"{package.__name__}.logsumexp", raising=False)
    monkeypatch.delattr(package, "logsumexp", raising=False)
    assert _logsumexp._triton_kernels.__wrapped__() is None
    assert "cannot be imported" in caplog.text


@pytest.mark.parametrize("rows", [1, 64, 1100, 4096, 16384])
@pytest.mark.parametrize("keys", [1, 77, 1025, 4096, 16384])
def test_parts_of_the_gradient_take_no_more_rows_than_q_and_k(rows, keys):
    from regionstyle.kernels.triton.logsumexp import PART, part_rows

    part = part_rows(rows, keys)
    assert part % PART == 0  # whole blocks: no row may be counted in two parts
    assert -(-rows // part) * keys <= rows + keys


def signature(kernel, sizes, dtype):
    """What each argument of a kernel is, as Triton's compiler wants to be told."""
    named = {"q": f"*{dtype}", "k": f"*{dtype}", "keep": "*u8", "scale": "fp32"}
    named |= dict.fromkeys(("lse", "grad", "grad_q", "grad_k"), "*fp32") | dict.fromkeys(sizes, "constexpr")
    return {name: named.get(name, "i32") for name in kernel.arg_names}


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype", "item"), [(75, "fp16", 2), (80, "fp32", 4), (90, "bf16", 2)])
def test_compiles_for_gpus_that_are_not_here(capability, dtype, item):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from regionstyle.kernels.triton import logsumexp as fused

    for kernel, width in ((fused.forward_kernel, item), (fused.grad_q_kernel, 4), (fused.grad_k_kernel, 4)):
        constants = {**fused.block_sizes(64, width), "HAS_KEEP": True}
        source = ASTSource(fn=kernel, signature=signature(kernel, constants, dtype), constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_stages": 1})
        assert made.asm["cubin"]
        assert made.metadata.shared <= 48 * 1024, f"{kernel.__name__} wants {made.metadata.shared} bytes"
