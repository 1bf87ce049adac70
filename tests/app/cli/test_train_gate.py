"""`regionstyle train gate`: what it writes and refuses."""

import pytest

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.router.gates.files import load_gate


def test_lines_become_a_gate(tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("mosaic: a star in mosaic style\nneon: a star in neon style\nmosaic: mosaic\nneon: neon\n")
    output = tmp_path / "new" / "gate.safetensors"
    line = ["train", "gate", "--prompts", str(lines), "-o", str(output), "--steps", "150", "--device", "cpu"]
    assert cli.main([*line, "--top-k", "1"]) == 0
    gate = load_gate(output)
    assert (gate.experts, gate.shape.top_k) == (("mosaic", "neon"), 1)
    assert "100% of its prompts right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-o", "gate.pt"], "ending in .safetensors"),
        (["-o", "gate.safetensors", "--model", "."], "--prompts"),
        (["-o", "gate.safetensors", "--prompts", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_used_is_named(more, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "gate", *more]) == 2
    assert said in capsys.readouterr().err
