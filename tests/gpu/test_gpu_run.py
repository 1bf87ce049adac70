"""The run on a GPU is whole: its dry run on the CPU, what becomes of parts that fail, what travels to the machine."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IN_COMFY = {"server-dynamic", "server-static", "server-gradients", "attention-maps", "experts-sd15", "experts-sdxl"}
ALONE = {"kernel-tests", "mechanism-tests", "sms", "attention-capture", "kernel-rates", "poisson", "local-clip",
         "training"}  # fmt: skip

PARTS = """
import subprocess, sys, time
from registry import LeftOut, part

@part("works", order=3, seconds=60)
def works(run):
    run.figure("a number", 1.5, "x", wanted="<= 1.15")
    run.check("it is so", True)

@part("hangs", order=2, seconds=60, dry_seconds=4)
def hangs(run):
    run.figure("before it hung", 2, "s")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (run.out / "child").write_text(str(child.pid))
    time.sleep(600)

@part("fails", order=1, seconds=60)
def fails(run):
    raise ValueError("what it says when it fails")

@part("absent", order=4, seconds=60)
def absent(run):
    raise LeftOut("nothing here to run it with")
"""


def module(name):
    """A module of this folder, without its folder staying on the path."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name.replace('/', '_')}", HERE / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def run_dry(*options, seconds=880):
    """The command as a user gives it, with this Python and the ComfyUI that the tests find."""
    environment = {**os.environ, "PYTHON": sys.executable, "PACKED": ""}
    line = [str(HERE / "run.sh"), "--dry-run", *map(str, options)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=seconds)


def entries_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def states_of(entries):
    return {entry["part"]: entry["state"] for entry in entries if "state" in entry}


def weights_here():
    """What lies in the folders of weights of this checkout: file -> hash."""
    files = [file for file in (ROOT / "nodes").glob("**/weights/**/*") if file.is_file()]
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if "__pycache__" not in file.parts
    }


def check_dry(done, folder, expected):
    """Every part ended and wrote something, in the folder and in the table."""
    entries, table = entries_of(folder), (folder / "results.md").read_text()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert states_of(entries) == dict.fromkeys(expected, "ended"), done.stdout[-4000:]
    for name in expected:
        assert [entry for entry in entries if entry.get("part") == name and ("figure" in entry or "test" in entry)]
        assert f"## {name}" in table
    assert not [entry for entry in entries if entry.get("outcome") == "failed"]


@pytest.mark.slow
def test_the_dry_run_is_whole_where_there_is_no_comfyui(tmp_path):
    before = weights_here()
    assert before
    done = run_dry("--out", tmp_path / "out", "--only", ",".join(ALONE))
    check_dry(done, tmp_path / "out", ALONE)
    archives = sorted(file.name for file in (tmp_path / "out").glob("*.tar"))
    assert archives == ["weights-experts.tar", "weights-unet.tar", "weights-vae.tar"]
    with tarfile.open(tmp_path / "out" / "weights-experts.tar") as files:
        assert len(files.getnames()) == 3
    assert weights_here() == before, "training must not touch this checkout"


@pytest.mark.slow
def test_the_dry_run_is_whole_in_comfyui(tmp_path, comfy_path):
    check_dry(run_dry("--out", tmp_path / "out", "--only", ",".join(IN_COMFY)), tmp_path / "out", IN_COMFY)


def test_every_part_is_run_dry_by_these_tests():
    listed = subprocess.run([sys.executable, str(HERE / "run.py"), "--list"], capture_output=True, text=True).stdout
    assert {line.partition(" ")[0] for line in listed.splitlines()} == IN_COMFY | ALONE


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run of parts that fail, hang, work and cannot be run."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "parts").mkdir()
    (folder / "parts" / "some.py").write_text(PARTS)
    return run_dry("--parts", folder / "parts", "--out", folder / "out", seconds=120), folder


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_loses_no_other(broken):
    done, folder = broken
    entries = entries_of(folder / "out")
    assert states_of(entries) == {
        "fails": "failed (1)", "hangs": "stopped: its time was over", "works": "ended", "absent": "left out"
    }  # fmt: skip
    assert done.returncode == 1, "a part that did not end is told by the exit code"
    said = {entry["part"]: entry.get("said", "") for entry in entries if "state" in entry}
    assert "what it says when it fails" in said["fails"]
    assert said["absent"] == "nothing here to run it with"
    assert [entry["figure"] for entry in entries if entry.get("part") == "hangs" and "figure" in entry]
    assert "what it says when it fails" in (folder / "out" / "log.txt").read_text()


@pytest.mark.slow
def test_what_a_stopped_part_started_is_stopped_too(broken):
    """It is gone, or dead and not yet collected by the machine's first process."""
    status = Path("/proc") / (broken[1] / "out" / "child").read_text().strip() / "stat"
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_one_part_alone_and_a_name_that_is_none(broken):
    folder = broken[1]
    done = run_dry("--parts", folder / "parts", "--out", folder / "one", "--only", "works", seconds=120)
    assert done.returncode == 0, "a figure that is not as wanted fails nothing"
    assert list(states_of(entries_of(folder / "one"))) == ["works"]
    wrong = run_dry("--parts", folder / "parts", "--out", folder / "two", "--only", "walks", seconds=120)
    assert wrong.returncode == 1
    assert "--only: got walks, expected names out of: fails, hangs, works, absent." in wrong.stderr


def test_the_workflows_of_the_servers_need_no_network_from_elsewhere(monkeypatch):
    """Those that a dry run leaves out as well."""
    from workflow_networks import needs_networks

    monkeypatch.syspath_prepend(str(HERE))
    comfyui, servers = module("comfyui"), module("parts/comfy_servers")
    for name in {*servers.PROMPTS, *servers.DRY_PROMPTS, servers.REPEATED, servers.DRY_REPEATED}:
        assert not needs_networks(comfyui.workflow(name, 7)), name
    assert comfyui.workflow(servers.REPEATED, 7) != comfyui.workflow(servers.REPEATED, 8), "ComfyUI would do nothing"


def test_the_table_has_marks_and_survives_a_cut_off_line(tmp_path):
    results, registry = module("results"), module("registry")
    assert registry.reached(1.2, "<= 1.15") is False
    assert registry.reached(5.0, ">= 5") is True
    file = tmp_path / "results.jsonl"
    registry.append(
        file, {"part": "p", "figure": "f", "value": 1.2, "unit": "x", "wanted": "<= 1.15", "reached": False}
    )
    registry.append(file, {"part": "p", "figure": "g", "value": None, "unit": "MiB"})
    registry.append(file, {"part": "p", "test": "t", "outcome": "failed", "said": "why\nnot"})
    with file.open("a") as lines:
        lines.write('{"part": "p", "fig')
    results.write_table(file)
    table = (tmp_path / "results.md").read_text()
    assert "| f | 1.2 x | <= 1.15 | **no** |" in table
    assert "| g | - MiB |  |  |" in table
    assert "1 failed." in table
    assert "**failed**: t: why not" in table
    assert "cut off" in table


def test_what_travels_of_comfyui(tmp_path):
    kept = ["main.py", "comfy/sd1_tokenizer/vocab.json", "comfy/text_encoders/spiece_tokenizer.py"]
    dropped = ["comfy/text_encoders/t5_tokenizer/tokenizer.json", ".git/config", "models/a.safetensors", "input/b.png",
               "tests/c.py", "comfy/__pycache__/d.pyc"]  # fmt: skip
    for name in (*kept, *dropped):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text("x")
    module("pack").pack_tree(tmp_path / "here", tmp_path / "tree.tar.xz")
    with tarfile.open(tmp_path / "tree.tar.xz") as archive:
        files = {item.name for item in archive if item.isfile()}
    assert files == {f"ComfyUI/{name}" for name in kept}


def test_what_is_too_large_is_refused(tmp_path, capsys):
    pack = module("pack")
    (tmp_path / "wheel.whl").write_bytes(b"0" * 2**20)
    own = pack.checkout_size() / 2**20
    assert own > 1
    assert pack.report(tmp_path, own + 1.5)
    assert not pack.report(tmp_path, own + 0.5)
    assert "wheel.whl" in capsys.readouterr().out


def test_requirements_are_read_as_pip_reads_them():
    pack = module("pack")
    assert pack.names_of(["# no", "a>=1  # why", "", "B_c.d"]) == ["a>=1", "B_c.d"]
    assert [pack.own_name(r) for r in ("a>=1", "B_c.d[x]~=2", "e")] == ["a", "b-c-d", "e"]


def test_what_the_machine_has_does_not_travel_unless_it_is_too_old():
    pack = module("pack")
    there = pack.versions_of(["# of the machine", "Some_Thing==1.3.0+cu130", "other"])
    assert pack.fits(there, "some-thing>=1.2")
    assert pack.fits(there, "some.thing")
    assert not pack.fits(there, "some-thing>=2")
    assert pack.fits(there, "other>=9")
    assert not pack.fits(there, "absent")


def test_the_stand_in_of_video_has_no_frames_and_cannot_be_used():
    program = (
        "import av\nfrom av.video.reformatter import ColorTrc\nfrom av.container import InputContainer\n"
        "assert ColorTrc.X is not None\nassert not av.open('film.mp4').demux()\nav.AudioFrame()"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE / "stand_ins")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "PyAV is not on this machine" in done.stderr


@pytest.mark.slow
def test_the_environment_takes_wheels_before_what_is_there(tmp_path):
    """A wheel named like a package that is there already, and this repository by its name."""
    (tmp_path / "packed" / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "packed" / "wheels" / "safetensors-99.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("safetensors/__init__.py", "HERE = True\n")
        wheel.writestr(
            "safetensors-99.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: safetensors\nVersion: 99.0\n"
        )
        wheel.writestr(
            "safetensors-99.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("safetensors-99.0.dist-info/RECORD", "")
    python = module("prepare").make_environment(tmp_path / "packed", tmp_path / "env")
    program = "import safetensors, torch, regionstyle; print(safetensors.HERE, regionstyle.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = subprocess.run(
        [str(python), "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.split()[0] == "True"
    assert Path(said.split()[1]).resolve() == ROOT / "__init__.py"
