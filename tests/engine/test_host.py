"""The host without a program around it: device, dtypes, progress, cancel, files."""

from pathlib import Path

import pytest
import torch

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host import LocalHost


def test_progress_reports_then_cancels():
    """The preview of the step that is cancelled is still shown."""
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report), cancelled=lambda: len(seen) == 2)
    progress, preview = host.progress(5, "restyle"), torch.zeros(3, 4, 4)
    progress.update(1)
    with pytest.raises(Cancelled):
        progress.update(2, preview)
    assert seen == [("restyle", 1, 5, None), ("restyle", 2, 5, preview)]


def test_no_callbacks_needed():
    host = LocalHost("cpu")
    host.progress(1).update(1)
    host.check()


def test_load_moves_modules():
    module = torch.nn.Linear(1, 1)
    LocalHost("meta").load(module)
    assert module.weight.device.type == "meta"


def test_dtypes():
    assert [LocalHost("cpu").dtype(part) for part in ("unet", "vae", "text")] == [torch.float32] * 3
    assert [LocalHost("cuda").dtype(part) for part in ("unet", "vae")] == [torch.float16, torch.float32]
    with pytest.raises(RegionStyleError, match="'clip'"):
        LocalHost("cpu").dtype("clip")


def test_find(tmp_path):
    (tmp_path / "oil.safetensors").touch()
    host = LocalHost("cpu", folders={"loras": tmp_path})
    assert host.find("loras", "oil.safetensors") == tmp_path / "oil.safetensors"
    assert host.find("checkpoints", str(tmp_path / "oil.safetensors")) == Path(tmp_path / "oil.safetensors")


def test_missing_file_names_file_and_folder(tmp_path):
    (tmp_path / "oil.safetensors").touch()
    with pytest.raises(RegionStyleError) as error:
        LocalHost("cpu", folders={"loras": tmp_path}).find("loras", "sketch.safetensors")
    for words in ("'sketch.safetensors'", str(tmp_path), "oil.safetensors", "Put"):
        assert words in str(error.value)
    with pytest.raises(RegionStyleError, match="no folder is set for vae"):
        LocalHost("cpu").find("vae", "x.safetensors")
