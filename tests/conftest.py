"""Fixtures for everything that needs a ComfyUI, and the line that says what was skipped for want of one.

ComfyUI is never imported into the pytest process (its top-level modules are called `nodes`, `utils`, `comfy`): tests
talk to a server, or run a script in ComfyUI's own interpreter.

The environment variables: COMFYUI_PATH (else where comfy-cli installs it), COMFYUI_OLD_PATH (a 0.3.64, else a folder
ComfyUI-0.3.64 beside the first), COMFYUI_PYTHON (else the folder's own .venv, else the Python that runs pytest).
"""

import os
from pathlib import Path

import pytest

from comfy_script import has_gpu, run_script
from comfy_server import ComfyServer

WANT_OF_COMFY = "no ComfyUI"


@pytest.fixture(scope="session")
def comfy_path() -> Path:
    """The folder of a ComfyUI; skips when there is none, and fails when COMFYUI_PATH names something else."""
    from regionstyle.nodes.app.comfyui.install import find_comfy
    from regionstyle.nodes.engine.errors import RegionStyleError

    if os.environ.get("COMFYUI_PATH"):
        return find_comfy()
    try:
        return find_comfy()
    except RegionStyleError:
        pytest.skip(WANT_OF_COMFY)


@pytest.fixture(scope="session")
def comfy_old_path() -> Path:
    """The folder of a ComfyUI 0.3.64; skips when there is none."""
    from regionstyle.nodes.app.comfyui.install import find_comfy, is_comfy
    from regionstyle.nodes.engine.errors import RegionStyleError

    named = os.environ.get("COMFYUI_OLD_PATH")
    try:
        folder = Path(named) if named else find_comfy().with_name("ComfyUI-0.3.64")
    except RegionStyleError:
        pytest.skip(f"{WANT_OF_COMFY} 0.3.64")
    if not is_comfy(folder):
        pytest.skip(f"{WANT_OF_COMFY} 0.3.64")
    return folder


@pytest.fixture(scope="session")
def comfy_python(comfy_path) -> Path:
    """The interpreter of that ComfyUI; the pack's requirements must be installed there."""
    from regionstyle.nodes.app.comfyui.install import comfy_python

    return comfy_python(comfy_path)


@pytest.fixture(scope="session")
def comfy_old_python(comfy_old_path) -> Path:
    """The interpreter of the old ComfyUI: its own environment, since the two need different packages."""
    python = comfy_old_path / ".venv" / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{WANT_OF_COMFY} 0.3.64 with an environment of its own in .venv")
    return python


@pytest.fixture(scope="session")
def comfy_server(comfy_path, comfy_python, tmp_path_factory):
    """A running server with this pack in its custom_nodes, one for all tests: see tests/support/comfy_server.py."""
    server = ComfyServer(comfy_path, comfy_python, tmp_path_factory.mktemp("comfy"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def comfy_old_server(comfy_old_path, comfy_old_python, tmp_path_factory):
    """The same on ComfyUI 0.3.64."""
    server = ComfyServer(comfy_old_path, comfy_old_python, tmp_path_factory.mktemp("comfy-old"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def workflow_networks(tmp_path_factory) -> Path:
    """A models folder with what the workflows load by name, made once: see tests/support/workflow_networks.py."""
    from workflow_networks import save_networks

    return save_networks(tmp_path_factory.mktemp("workflow-networks"))


@pytest.fixture(scope="session")
def run_in_comfy(comfy_path, comfy_python):
    """`run_in_comfy(script, args=())`: the JSON on the last line that the script writes to stdout."""

    def run(script: str, **options) -> dict:
        return run_script(comfy_path, comfy_python, script, **options)

    return run


@pytest.fixture(scope="session")
def run_in_comfy_on_gpu(comfy_path, comfy_python):
    """`run_in_comfy` on a GPU; skips where ComfyUI's torch sees none."""
    if not has_gpu(comfy_python):
        pytest.skip("no GPU")

    def run(script: str, **options) -> dict:
        return run_script(comfy_path, comfy_python, script, cpu=False, **options)

    return run


@pytest.fixture(scope="session")
def run_in_old_comfy(comfy_old_path, comfy_old_python):
    """The same on ComfyUI 0.3.64."""

    def run(script: str, **options) -> dict:
        return run_script(comfy_old_path, comfy_old_python, script, **options)

    return run


def pytest_collection_modifyitems(items):
    """Whatever uses one of the fixtures above is marked `comfy`, so that `-m "not comfy"` works without care."""
    for item in items:
        if any(name.startswith(("comfy_", "run_in_")) for name in getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.comfy)


def pytest_terminal_summary(terminalreporter):
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    new = sum(reason.endswith(WANT_OF_COMFY) for reason in reasons)
    old = sum(WANT_OF_COMFY in reason for reason in reasons) - new
    if new:
        terminalreporter.write_line(
            f"{new} TESTS SKIPPED FOR WANT OF COMFYUI. To have them run: install ComfyUI and this pack's "
            "requirements.txt into its environment, then set COMFYUI_PATH to its folder.",
            red=True,
        )
    if old:
        terminalreporter.write_line(
            f"{old} tests skipped for want of ComfyUI 0.3.64. To have them run: set COMFYUI_OLD_PATH to its folder, "
            "with an environment in .venv there that holds its requirements and this pack's.",
            yellow=True,
        )
