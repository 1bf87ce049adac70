"""Two machines that teach one expert, each started by hand with `accelerate launch`: here both are this one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pair_files import write_pairs

import regionstyle
from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.engine.training.state import read_state

SETTINGS = ["--steps", "2", "--rank", "2", "--resolution", "64", "--validation", "1", "--preview-every", "2",
            "--focus", "0", "--cover", "0"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def started(rank, port, folder, manifest):
    """One machine, as the help page says it is started; its output lies in a folder of its own."""
    where = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--machine_rank", str(rank)]
    launch = ["--multi_gpu", "--num_machines", "2", "--num_processes", "2", "--mixed_precision", "no", *where]
    own = [sys.executable, "-m", "regionstyle.nodes.app.cli.main", "train", "expert", "--pairs", str(manifest)]
    (folder / str(rank)).mkdir()
    output = ["-o", str(folder / str(rank) / "x.safetensors"), "--batch", "2", *SETTINGS, "--accelerate"]
    line = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *launch, "--no_python"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [*line, *own, *output], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_machines_give_the_loss_of_one_process(tmp_path):
    pytest.importorskip("accelerate")
    manifest, port = write_pairs(tmp_path / "pairs", 5), free_port()
    (tmp_path / "regionstyle").symlink_to(Path(regionstyle.__file__).parent)
    both = [started(rank, port, tmp_path, manifest) for rank in (0, 1)]
    said = [one.communicate(timeout=240)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    alone = ["train", "expert", "--pairs", str(manifest), "-o", str(tmp_path / "a.safetensors"), "--device", "cpu"]
    assert cli.main([*alone, "--batch", "4", *SETTINGS]) == 0
    whole, first = (read_state(path) for path in (tmp_path / "a.train.pt", tmp_path / "0" / "x.train.pt"))
    assert first["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert [loss for _, loss in first["validation"]] == pytest.approx([one for _, one in whole["validation"]], rel=1e-4)
    assert not list((tmp_path / "1").iterdir()), "the second machine writes nothing"
    assert "wrote" in said[0]
    assert "wrote" not in said[1]
