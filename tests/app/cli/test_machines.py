"""Two machines that teach one expert, each started by hand with `accelerate launch`: here both are this one."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
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
    with said_by(rank, folder).open("w") as said:
        return subprocess.Popen(
            [*line, *own, *output], cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )


def said_by(rank, folder):
    return folder / f"said by {rank}.txt"


def ended(both, seconds):
    """Wait for all of them, so long together; whatever happens, none of them nor what they started goes on."""
    until = time.monotonic() + seconds
    try:
        return [one.wait(timeout=max(0, until - time.monotonic())) for one in both]
    finally:
        for one in both:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


def test_one_that_takes_too_long_is_ended_with_what_it_started():
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    both = [subprocess.Popen([sys.executable, "-c", nested], start_new_session=True) for _ in (0, 1)]
    with pytest.raises(subprocess.TimeoutExpired):
        ended(both, 0.2)
    assert [one.returncode for one in both] == [-signal.SIGKILL] * 2


@pytest.mark.slow
def test_two_machines_give_the_loss_of_one_process(tmp_path):
    pytest.importorskip("accelerate")
    manifest, port = write_pairs(tmp_path / "pairs", 5), free_port()
    (tmp_path / "regionstyle").symlink_to(Path(regionstyle.__file__).parent)
    codes = ended([started(rank, port, tmp_path, manifest) for rank in (0, 1)], 240)
    said = [said_by(rank, tmp_path).read_text() for rank in (0, 1)]
    assert codes == [0, 0], said
    alone = ["train", "expert", "--pairs", str(manifest), "-o", str(tmp_path / "a.safetensors"), "--device", "cpu"]
    assert cli.main([*alone, "--batch", "4", *SETTINGS]) == 0
    whole, first = (read_state(path) for path in (tmp_path / "a.train.pt", tmp_path / "0" / "x.train.pt"))
    assert first["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert [loss for _, loss in first["validation"]] == pytest.approx([one for _, one in whole["validation"]], rel=1e-4)
    assert not list((tmp_path / "1").iterdir()), "the second machine writes nothing"
    assert "wrote" in said[0]
    assert "wrote" not in said[1]
