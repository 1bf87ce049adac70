"""The public list, and what importing it costs."""

import importlib
import inspect
import subprocess
import sys

import pytest

import regionstyle.kernels as kernels

SIGNATURES = {
    "token_attention": "q, k, tokens, *, support, scale, reduce_heads",
    "token_logodds": "q, k, groups, valid, *, scale, reduce_heads",
    "routed_lora": "x, down, up, gate, scale",
    "dct2": "x",
    "idct2": "x",
    "low_pass": "c, threshold",
    "spectrum_distance": "a, b, threshold, *, power",
    "masked_pool": "x, mask, *, over",
    "modulate": "x, scale, shift, mask",
    "adaptive_filter": "x, alpha, beta",
    "poisson_blend": "source, target, mask, *, mode, tol",
    "sample_patches": "image, boxes, count, crop, size, *, distortion, fill, generator",
}


def test_exports_exactly_the_public_list():
    assert sorted(kernels.__all__) == sorted(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    names, starred = [], False
    for parameter in inspect.signature(getattr(kernels, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            names.append("*")
            starred = True
        names.append(parameter.name)
    assert ", ".join(names) == SIGNATURES[name]
    assert inspect.getdoc(getattr(kernels, name))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kernels.nonsense


def test_importing_a_file_does_not_hide_a_function():
    for file in ("attention", "logodds", "lora", "dct", "pool", "modulation", "filters", "patches", "poisson"):
        importlib.import_module(f"regionstyle.kernels.{file}")
    assert all(callable(getattr(kernels, name)) for name in SIGNATURES)


def test_import_is_lazy_and_works_under_another_name():
    """As a ComfyUI custom node folder: an arbitrary package name, and no torch until a kernel is asked for."""
    program = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("odd-name.kernels", sys.argv[1], submodule_search_locations=[sys.argv[2]])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
assert "torch" not in sys.modules, "importing the package imported torch"
x = module.dct2.__globals__["torch"].ones(2, 2)
assert abs(float(module.dct2(x)[0, 0]) - 2) < 1e-6
assert "regionstyle" not in sys.modules
"""
    file = kernels.__file__
    folder = file.rpartition("/")[0] or file.rpartition("\\\\")[0]
    subprocess.run([sys.executable, "-c", program, file, folder], check=True, timeout=60)
