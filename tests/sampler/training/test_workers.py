"""Teaching in several processes: two with half the batch each do what one does with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_files import write_pairs

SUPPORT = Path(__file__).parents[2] / "support"
SCRIPT = """
import sys
from pathlib import Path
import torch
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.host.workers import accelerated
from regionstyle.nodes.engine.training.state import StateFile, facts_of
from regionstyle.nodes.sampler.training.examples import encode_pairs
from regionstyle.nodes.sampler.training.manifest import read_manifest
from regionstyle.nodes.sampler.training.run import new_expert, train_expert
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor

workers, folder = accelerated(), Path(sys.argv[1])
predictor = load_predictor(LocalHost("cpu"))
settings = ExpertTrainSettings(steps=3, batch=4 // workers.count, rate=1e-2, rank=2, warmup=0,
                               validation=1)
examples = encode_pairs(predictor, read_manifest(Path(sys.argv[2])), 64, settings)
weights = ExpertWeights(new_expert(predictor.network, "x", "mosaic", settings)).requires_grad_(True)
shown = []
with ExpertStack(predictor.network, [weights]) as stack:
    stack.set(Gates({"x": 1.0}))
    state = StateFile(folder / f"{workers.rank}.train.pt", facts_of(settings, examples.mark))
    made = train_expert(predictor, weights, examples, settings, state, workers=workers,
                        shown=lambda step, frame: shown.append(step))
flat = torch.cat([p.detach().flatten() for p in weights.parameters()])
torch.save({"weights": flat, "losses": made.losses, "validation": made.validation,
            "shown": len(shown), "state": state.path.is_file()},
           folder / f"{workers.rank}.pt")
"""


def run(folder, manifest, processes):
    pytest.importorskip("accelerate")
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    import regionstyle

    (folder / "regionstyle").symlink_to(Path(regionstyle.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(SUPPORT)]), "OMP_NUM_THREADS": "1",
                   "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    # `accelerate launch` starts several CPU processes through MPI only; Accelerate reads torchrun's variables too.
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            str(folder / "script.py"), str(folder), str(manifest)]  # fmt: skip
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(tmp_path):
    manifest = write_pairs(tmp_path / "pairs", 5)
    (alone,) = run(tmp_path / "one", manifest, 1)
    first, second = run(tmp_path / "two", manifest, 2)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert second["losses"] == first["losses"]
    assert [done for done, _ in first["validation"]] == [0, 3]
    assert [loss for _, loss in first["validation"]] == pytest.approx(
        [loss for _, loss in alone["validation"]], rel=1e-4
    )
    assert second["validation"] == first["validation"]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=1e-7)
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=0, atol=2e-3)
    assert (first["shown"], first["state"]) == (1, True)
    assert (second["shown"], second["state"]) == (0, False)
