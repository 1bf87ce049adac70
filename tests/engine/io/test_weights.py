"""Weight files of the pack's own kinds with numbers that are none."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.weights import WeightFile

FILE = WeightFile("thing", "a_thing", "1", "Choose another.")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_numbers_that_are_none_are_refused_by_name(tmp_path, bad, dtype):
    weight = torch.ones(4, 4, dtype=dtype)
    weight[1, 2] = bad
    save_file({"a": torch.ones(1), "deep.weight": weight}, tmp_path / "t.safetensors", metadata={"a_thing": "1"})
    with pytest.raises(
        RegionStyleError, match=r"thing: got t.safetensors with NaN or infinity in deep.weight \(1 such\)"
    ):
        FILE.read(tmp_path / "t.safetensors")


def test_what_is_written_is_read(tmp_path):
    network = nn.Linear(2, 3)
    FILE.write(tmp_path / "t.safetensors", network, {"more": "words"})
    header, state = FILE.read(tmp_path / "t.safetensors")
    assert header["more"] == "words"
    assert torch.equal(state["weight"], network.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
