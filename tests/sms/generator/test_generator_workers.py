"""Data-parallel training of a generator: two processes, and what is said without the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.workers import ALONE, accelerated

SUPPORT = Path(__file__).parents[2] / "support"
SCRIPT = """
import json, sys
import torch
from sms_networks import sms_predictor
from regionstyle.nodes.sms.fake import NAME
from regionstyle.nodes.sms.generator.pictures import PictureBatch
from regionstyle.nodes.sms.generator.run import distill
from regionstyle.nodes.sms.settings import DistillSettings
from regionstyle.nodes.engine.host.workers import accelerated
from regionstyle.nodes.sms.settings import SmsSettings

workers, folder = accelerated(), sys.argv[1]
predictor = sms_predictor(torch.float32)
fake = [p.requires_grad_(True) for p in predictor.experts.parameters(NAME)]
images = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
settings = DistillSettings(SmsSettings(iterations=2, rate=1e-3), copies=2, warm_up=2, size=32)
shown = []
made = distill(predictor, PictureBatch(images), "", "mosaic", {"style": 0.8}, fake, settings, workers=workers,
               on_validation=lambda done, inputs, results: shown.append(done))
weights = torch.cat([v.flatten() for v in made.generator.network.state_dict().values()])
torch.save({"weights": weights, "fake": torch.cat([p.detach().flatten() for p in fake]), "shown": len(shown),
            "losses": made.history.content, "count": workers.count}, f"{folder}/{workers.rank}.pt")
"""


def run(folder: Path, processes: int) -> list[dict]:
    pytest.importorskip("accelerate")
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    # The package may be importable only in this process: its folder is told to the others.
    import regionstyle

    (folder / "regionstyle").symlink_to(Path(regionstyle.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(SUPPORT)]), "OMP_NUM_THREADS": "1",
                   "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    # `accelerate launch` starts several CPU processes through MPI only; Accelerate reads torchrun's variables too.
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            str(folder / "script.py"), str(folder)]  # fmt: skip
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_learn_the_same_from_different_pictures(tmp_path):
    (alone,) = run(tmp_path / "one", 1)
    first, second = run(tmp_path / "two", 2)
    assert [made["count"] for made in (alone, first, second)] == [1, 2, 2]
    for part in ("weights", "fake"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=1e-6)
        assert not torch.allclose(first[part], alone[part], atol=1e-5)
    assert first["losses"][0] == alone["losses"][0]  # the first process draws what one alone draws
    assert first["losses"][0] != second["losses"][0]
    assert first["shown"] > 0
    assert second["shown"] == 0


def test_one_process_averages_nothing():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    ALONE.average([parameter])
    assert parameter.grad.tolist() == [3.0, 3.0]
    assert ALONE.first
    assert ALONE.device is None


def test_without_the_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(RegionStyleError, match="pip install accelerate"):
        accelerated()
    line = ["train", "sms-generator", "--style", "watercolor", "-o", str(tmp_path / "a.safetensors"), "--accelerate"]
    assert cli.main(line) == 2
    assert "no package 'accelerate'" in capsys.readouterr().err
    assert cli.main([*line, "--device", "cpu"]) == 2
    assert "--device: got cpu" in capsys.readouterr().err
