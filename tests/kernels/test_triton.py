"""The fused kernels without a GPU: their numbers in Triton's interpreter, and their code through its compiler."""

import os
import subprocess
import sys
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
