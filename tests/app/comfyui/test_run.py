"""`regionstyle run` against a real server and with ComfyUI's executor in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.cli import main as cli

LOAD = {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Picture"}}
API = {
    "1": LOAD,
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}
# The same, as the browser saves it.
UI = {
    "version": 0.4,
    "nodes": [
        {"id": 1, "type": "LoadImage", "title": "Picture", "mode": 0, "widgets_values": ["example.png", "image"],
         "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE"}, {"name": "MASK", "type": "MASK"}]},
        {"id": 2, "type": "ImageInvert", "mode": 0, "widgets_values": [], "outputs": [{"type": "IMAGE"}],
         "inputs": [{"name": "image", "type": "IMAGE", "link": 1}]},
        {"id": 3, "type": "SaveImage", "mode": 0, "widgets_values": ["inverted"], "outputs": [],
         "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
}  # fmt: skip


def probe(kind, steps):
    """A graph with a node of tests/support/probe_pack, which only the test server has."""
    return {
        "1": LOAD,
        "2": {"class_type": kind, "inputs": {"image": ["1", 0], "steps": steps}, "_meta": {"title": "Probe"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a picture in it."""
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "mine.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder, workflow):
    (folder / "workflow.json").write_text(json.dumps(workflow))
    return "workflow.json"


def is_inverted(folder, path):
    mine, result = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (folder / "mine.png", path))
    return mine.shape == result.shape and bool((np.abs(255 - mine - result) <= 1).all())


def outputs(capsys):
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def server(comfy_server):
    return ["--server", comfy_server.url]


@pytest.mark.slow
@pytest.mark.parametrize("workflow", [API, UI], ids=["api", "ui"])
def test_a_workflow_on_a_server(server, folder, capsys, workflow):
    line = ["run", save(folder, workflow), "--input", "Picture=mine.png", "--set", "3.filename_prefix=new", *server]
    assert cli.main(line) == 0
    (path,) = outputs(capsys)
    assert path.parent == Path("regionstyle-out")
    assert path.name.startswith("new")
    assert is_inverted(folder, path)
    assert cli.main(line) == 0  # nothing is overwritten
    (again,) = outputs(capsys)
    assert again != path
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workflow", "options", "words"),
    [
        (API, ["--set", "3.prefix=x"], "has no input 'prefix'. It has: images, filename_prefix"),
        (API, ["--input", "Photo=mine.png"], "no node is called 'Photo'"),
        ({**API, "2": {"class_type": "Unheard", "inputs": {}}}, [], "has no node Unheard"),
        ({**API, "1": {**LOAD, "inputs": {"image": "none.png"}}}, [], 'node "Picture" (1): '),
        ({"1": LOAD}, [], "no outputs"),
        (probe("ProbeFail", 3), ["--input", "1=mine.png"], 'node "Probe" (2) failed: ValueError: steps: 3 is not what'),
    ],
)
def test_problems_are_one_line(server, folder, capsys, workflow, options, words):
    assert cli.main(["run", save(folder, workflow), *options, *server]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_no_server_there(folder, capsys):
    assert cli.main(["run", save(folder, API), "--server", "127.0.0.1:9"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no answer from a ComfyUI" in lines[0]


def test_no_workflow_there(folder, capsys):
    assert cli.main(["run", "none.json"]) == 2
    assert "none.json: there is no such file" in capsys.readouterr().err


def take_interrupts():
    """A run in the background of a shell script ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, *options):
    command = [sys.executable, "-c", "import sys; from regionstyle.nodes.app.cli.main import main; sys.exit(main())"]
    command += ["run", save(folder, probe("ProbeWait", 3000)), "--input", "1=mine.png", *options]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=take_interrupts
    )


def is_idle(comfy_server):
    queue = comfy_server.get("/queue")
    return not queue["queue_running"] + queue["queue_pending"]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process on Windows")
def test_ctrl_c_takes_the_prompt_off_the_server(server, comfy_server, folder):
    wait_until(lambda: is_idle(comfy_server))  # another test's last prompt
    run = start(folder, *server)
    wait_until(lambda: comfy_server.get("/queue")["queue_running"])
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert stderr.splitlines()[-1] == "regionstyle: cancelled"
    wait_until(lambda: not comfy_server.get("/queue")["queue_running"])


@pytest.mark.slow
def test_an_interrupt_in_the_browser_is_reported(server, comfy_server, folder, capsys):
    def interrupt():
        wait_until(lambda: comfy_server.get("/queue")["queue_running"])
        while not is_idle(comfy_server):  # ComfyUI forgets an interrupt that comes in the moment a prompt starts
            comfy_server.interrupt()
            time.sleep(0.2)

    wait_until(lambda: is_idle(comfy_server))
    thread = threading.Thread(target=interrupt)
    thread.start()
    workflow = save(folder, probe("ProbeWait", 3000))
    assert cli.main(["run", workflow, "--input", "1=mine.png", *server]) == 2
    thread.join()
    assert "interrupted in ComfyUI" in capsys.readouterr().err


@pytest.fixture(params=["new", "old"])
def in_process(request, monkeypatch):
    """COMFYUI_PATH and COMFYUI_PYTHON set for one ComfyUI; the folder of its input files."""
    old = "old_" if request.param == "old" else ""
    path, python = (request.getfixturevalue(f"comfy_{old}{name}") for name in ("path", "python"))
    monkeypatch.setenv("COMFYUI_PATH", str(path))
    monkeypatch.setenv("COMFYUI_PYTHON", str(python))
    return path / "input"


def names(folder):
    return {file.name for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
@pytest.mark.comfy
def test_a_workflow_in_process(in_process, folder, capsys):
    before = names(in_process)
    shutil.copy(folder / "mine.png", folder / "only-this-test.png")  # another worker's runs use the same folder
    assert cli.main(["run", save(folder, UI), "--input", "Picture=only-this-test.png", "--out", "here"]) == 0
    (path,) = outputs(capsys)
    assert path.parent == Path("here")
    assert is_inverted(folder, path)
    assert not [name for name in names(in_process) - before if name.startswith("only-this")]  # the copy is gone


LATENT = {
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "deep/latent"}},
}
# Two pictures, of which ComfyUI refuses one: there is no such file.
TWO = {
    **API,
    "4": {**LOAD, "inputs": {"image": "none.png"}, "_meta": {"title": "Missing"}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "missing"}},
}


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.comfy
def test_every_file_of_the_output_folder_is_delivered(in_process, folder, capsys):
    """Latents are no images; subfolders stay; a second run numbers its files."""
    line = ["run", save(folder, {**LATENT, "3": {**API["3"], "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
                                 "4": LOAD}), "--input", "Picture=mine.png", "--out", "here"]  # fmt: skip
    assert cli.main(line) == 0
    assert {str(path) for path in outputs(capsys)} == {"here/deep/latent_00001_.latent", "here/x_00001_.png"}
    assert cli.main(line) == 0
    assert below(folder / "here") == [
        "deep/latent_00001_-2.latent", "deep/latent_00001_.latent", "x_00001_-2.png", "x_00001_.png"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.comfy
def test_a_refused_branch_in_process(in_process, folder, capsys):
    line = ["run", save(folder, TWO), "--input", "Picture=mine.png", "--out", "here"]
    assert cli.main(line) == 2
    assert 'node "Missing" (4): ' in capsys.readouterr().err
    assert not (folder / "here").exists()
    assert cli.main([*line, "--partial"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith('regionstyle: left out: node "SaveImage" (5), because of node "Missing" (4): ')
    assert below(folder / "here") == [Path(said.out.strip()).name] == ["inverted_00001_.png"]


@pytest.mark.slow
def test_a_refused_branch_on_a_server(server, comfy_server, folder, capsys):
    line = ["run", save(folder, TWO), "--input", "Picture=mine.png", "--out", "here", *server]
    assert cli.main(line) == 2
    assert 'node "Missing" (4): ' in capsys.readouterr().err
    wait_until(lambda: is_idle(comfy_server))
    assert not (folder / "here").exists()
    assert cli.main([*line, "--partial"]) == 1
    assert capsys.readouterr().err.startswith('regionstyle: left out: node "SaveImage" (5)')
    assert len(below(folder / "here")) == 1


@pytest.mark.slow
def test_files_that_are_no_images_come_from_a_server(server, folder, capsys):
    assert cli.main(["run", save(folder, LATENT), "--out", "here", *server]) == 0
    (path,) = outputs(capsys)
    assert path.parent == Path("here/deep")
    assert path.suffix == ".latent"
    assert path.stat().st_size > 64 * 4


@pytest.mark.slow
def test_nothing_made_is_said(server, folder, capsys):
    nothing = {"1": LOAD, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}}
    line = ["run", save(folder, nothing), "--input", "Picture=mine.png", "--out", "here", *server]
    assert cli.main(line) == 0
    assert "nothing was made" in capsys.readouterr().err
    assert cli.main([*line, "--strict"]) == 3


SUBGRAPH = {
    "id": "invert", "inputs": [{"name": "image", "type": "IMAGE", "linkIds": [1]}],
    "outputs": [{"name": "IMAGE", "type": "IMAGE", "linkIds": [2]}],
    "nodes": [{**UI["nodes"][1], "id": 5, "inputs": [{"name": "image", "type": "IMAGE", "link": 1}]}],
    "links": [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "IMAGE"},
        {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "IMAGE"},
    ],
}  # fmt: skip


@pytest.mark.slow
def test_a_workflow_with_a_subgraph(server, folder, capsys):
    nodes = [UI["nodes"][0], {**UI["nodes"][1], "type": "invert"}, UI["nodes"][2]]
    data = {**UI, "nodes": nodes, "definitions": {"subgraphs": [SUBGRAPH]}}
    assert cli.main(["run", save(folder, data), "--input", "Picture=mine.png", *server]) == 0
    (path,) = outputs(capsys)
    assert is_inverted(folder, path)


STYLE = Path(__file__).resolve().parents[3] / "workflows" / "api" / "style_from_pictures.json"


@pytest.mark.slow
@pytest.mark.comfy
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process on Windows")
def test_a_cancelled_training_is_kept_and_resumed(comfy_path, comfy_python, folder):
    name = f"cancelled-{os.getpid()}"
    state = comfy_path / "output" / "regionstyle" / f"{name}.train.pt"
    places = {"COMFYUI_PATH": str(comfy_path), "COMFYUI_PYTHON": str(comfy_python)}
    try:
        for resume in ("false", "true"):
            values = {"steps": "3000", "batch_size": "1", "name": name, "resume": resume}
            code, said = cancel_a_training(folder, state, values, {**os.environ, **places})
            assert code == 130, said
            assert f"an unfinished training is kept in {state}" in said
    finally:
        state.unlink(missing_ok=True)


def cancel_a_training(folder, state, values, environment):
    """Exit code and stderr of a run that gets Ctrl-C when its training has saved its state."""
    command = [sys.executable, "-c", "import sys; from regionstyle.nodes.app.cli.main import main; sys.exit(main())"]
    changes = [part for name, value in values.items() for part in ("--set", f"Train Style Expert.{name}={value}")]
    before = state.stat().st_mtime_ns if state.exists() else 0
    run = subprocess.Popen(
        [*command, "run", str(STYLE), *changes], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=take_interrupts,
    )  # fmt: skip
    wait_until(lambda: run.poll() is not None or (state.exists() and state.stat().st_mtime_ns > before), 180)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=90)
    return run.returncode, stderr


@pytest.mark.slow
@pytest.mark.comfy
def test_problems_in_process(in_process, folder, capsys):
    workflow = save(folder, {**API, "1": {**LOAD, "inputs": {"image": "none.png"}}})
    assert cli.main(["run", workflow]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert 'node "Picture" (1): ' in lines[0]


def test_a_python_without_comfyui_is_explained(comfy_path, folder, capsys, monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setenv("COMFYUI_PATH", str(comfy_path))
    monkeypatch.setenv("COMFYUI_PYTHON", str(bare))
    assert cli.main(["run", save(folder, API)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No module named 'torch'" in lines[0]
    assert "requirements.txt" in lines[0]
