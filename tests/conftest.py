"""Fixtures for what needs a ComfyUI, what was skipped for want of one, and how two processes share the tests.

ComfyUI is never imported into the pytest process (its top-level modules are called `nodes`, `utils`, `comfy`): tests
talk to a server, or run a script in ComfyUI's own interpreter.

The environment variables: COMFYUI_PATH (else where comfy-cli installs it), COMFYUI_OLD_PATH (a 0.3.64, else a folder
ComfyUI-0.3.64 beside the first), COMFYUI_PYTHON (else the folder's own .venv, else the Python that runs pytest).
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from comfy_fork import run_forked

from comfy_script import REPOSITORY, has_gpu, run_script
from comfy_server import ComfyServer

# Before torch is first imported, here and in every process that is started from here: two processes of one thread are
# faster than one of two, and far faster on a machine with other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NO_COMFY = "NO COMFYUI"
NO_OLD_COMFY = "NO COMFYUI 0.3.64"
SERVERS = ("comfy_server", "comfy_old_server")


@pytest.fixture(scope="session")
def comfy_path() -> Path:
    """The folder of a ComfyUI that can be run; skips when there is none.

    Fails when COMFYUI_PATH or COMFYUI_PYTHON names what cannot be used.
    """
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy
    from regionstyle.nodes.engine.errors import RegionStyleError

    named = "COMFYUI_PATH"
    try:
        folder = find_comfy()
        named = "COMFYUI_PYTHON"
        check_requirements(comfy_python(folder))
    except RegionStyleError as error:
        if os.environ.get(named):
            raise
        pytest.skip(f"{NO_COMFY}: {error}")
    return folder


@pytest.fixture(scope="session")
def comfy_old_path() -> Path:
    """The folder of a ComfyUI 0.3.64 with a Python of its own that can run it; skips when there is none."""
    from regionstyle.nodes.app.comfyui.install import find_comfy, import_problem, is_comfy
    from regionstyle.nodes.engine.errors import RegionStyleError

    named = os.environ.get("COMFYUI_OLD_PATH")
    try:
        folder = Path(named) if named else find_comfy().with_name("ComfyUI-0.3.64")
        python = python_of_old(folder)
        problem = "" if is_comfy(folder) and python.is_file() else f"nothing in {folder} or no Python in its .venv"
        problem = problem or import_problem(python, folder)
        if not problem:
            check_requirements(python)
    except RegionStyleError as error:
        problem = str(error)
    if problem:
        pytest.skip(
            f"{NO_OLD_COMFY}: {problem}. Set COMFYUI_OLD_PATH to its folder, with an environment in .venv there that "
            "holds its requirements and this pack's."
        )
    return folder


def python_of_old(folder: Path) -> Path:
    """The old ComfyUI's own environment: the two need different packages."""
    return folder / ".venv" / "bin" / "python"


def check_requirements(python: Path) -> None:
    """An error where ComfyUI's Python lacks what this pack needs."""
    from regionstyle.nodes.app.comfyui.install import absent_requirements
    from regionstyle.nodes.engine.errors import RegionStyleError

    if absent := absent_requirements(python, REPOSITORY / "requirements.txt"):
        raise RegionStyleError(
            f"{python} lacks {', '.join(absent)}. Install this pack's requirements.txt there, or set COMFYUI_PYTHON to "
            "the Python that has them."
        )


@pytest.fixture(scope="session")
def comfy_python(comfy_path) -> Path:
    """The interpreter of that ComfyUI."""
    from regionstyle.nodes.app.comfyui.install import comfy_python

    return comfy_python(comfy_path)


@pytest.fixture(scope="session")
def comfy_old_python(comfy_old_path) -> Path:
    """The interpreter of the old ComfyUI."""
    return python_of_old(comfy_old_path)


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
        return run_forked(comfy_path, comfy_python, script, **options)

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
        return run_forked(comfy_old_path, comfy_old_python, script, **options)

    return run


def pytest_xdist_auto_num_workers(config) -> int:
    """Two processes for folders and for everything, none for single files and tests: `-n` chooses otherwise."""
    return 0 if config.args and all(".py" in argument for argument in config.args) else 2


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config, items):
    """Marks, and in a process of several the order.

    Whatever uses one of the fixtures above is marked `comfy`, so that `-m "not comfy"` works without care. A file's
    tests stay in one process, where they share what its fixtures make; all tests of one server likewise, so that each
    server starts once. What takes long comes first, so that neither process ends long before the other.
    """
    first: dict[str, int] = {}
    for item in items:
        used = fixtures_of(item)
        if any(name.startswith(("comfy_", "run_in_")) for name in used):
            item.add_marker(pytest.mark.comfy)
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
        rank = 0 if used & set(SERVERS) else 1 if item.get_closest_marker("slow") else 2
        first[group_of(item)] = min(rank, first.get(group_of(item), rank))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: first[group_of(item)])


def fixtures_of(item) -> set[str]:
    """The fixtures of a test, also those that a parameter names for `request.getfixturevalue`."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*item.fixturenames, *(value for value in parameters if isinstance(value, str))}


def group_of(item) -> str:
    """The server that a test uses, else its file."""
    used = fixtures_of(item)
    return next((server for server in SERVERS if server in used), item.location[0])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    """Without the group that xdist puts behind the name, so that a failed test can be named to run it again."""
    report.nodeid = re.sub(r"@(\w+|[^@\]]+\.py)$", "", report.nodeid)


def pytest_terminal_summary(terminalreporter):
    """How many tests were skipped for want of a ComfyUI, and why."""
    reasons = (report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()) if report.longrepr)
    for reason, count in Counter(reasons).items():
        reason = reason.removeprefix("Skipped: ")
        if reason.startswith(NO_COMFY):
            terminalreporter.write_line(f"{count} TESTS SKIPPED, {reason}", red=True)
