"""The repository root is the package: its lists agree with the tree, and importing it costs and changes nothing."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import regionstyle

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path(regionstyle.__file__).parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SOURCES = [ROOT / "__init__.py", *sorted((ROOT / "kernels").rglob("*.py")), *sorted((ROOT / "nodes").rglob("*.py"))]


def listed(key):
    """The strings of a list in pyproject.toml (tomllib is not in Python 3.10)."""
    found = re.search(rf"^{key} = (\[.*?^\])", PROJECT, re.MULTILINE | re.DOTALL)
    assert found, key
    return ast.literal_eval(found[1])


def test_the_package_list_is_the_tree():
    folders = [file.parent for top in ("kernels", "nodes") for file in (ROOT / top).rglob("__init__.py")]
    names = [".".join(("regionstyle", *folder.relative_to(ROOT).parts)) for folder in folders]
    assert sorted(listed("packages")) == sorted(["regionstyle", *names])


def test_every_folder_with_modules_is_a_package():
    assert not [str(file) for file in SOURCES if not (file.parent / "__init__.py").is_file()]


def test_every_data_file_is_installed():
    files = [file for pattern in listed("regionstyle") for file in ROOT.glob(pattern.replace("**", "**/*"))]
    files = [file.relative_to(ROOT) for file in files if file.is_file()]
    assert Path("py.typed") in files
    assert not [str(file) for file in files if not (INSTALLED / file).is_file()]


def test_nothing_but_listed_data_is_needed():
    """Every file under nodes/ that is not Python is package data."""
    data = {file for pattern in listed("regionstyle") for file in ROOT.glob(pattern.replace("**", "**/*"))}
    others = [file for file in (ROOT / "nodes").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert not [str(file) for file in others if file not in data and "_cache" not in str(file)]


def test_requirements_have_no_pins():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert requirements
    assert all(re.fullmatch(r"[A-Za-z0-9-]+(>=[0-9.]+)?", line) for line in requirements), requirements
    assert not [line for line in requirements if line.startswith("torch") and ">" in line]


def test_the_version_has_one_source():
    assert regionstyle.__version__ == re.search(r'^version = "(.+)"', PROJECT, re.MULTILINE)[1]


def test_imports_are_relative():
    """The folder may have any name, so nothing in it may know its own."""
    own_name = re.compile(r"^\s*(from|import) regionstyle\b", re.MULTILINE)
    assert not [str(file) for file in SOURCES if own_name.search(file.read_text(encoding="utf-8"))]


def imported_folders(file: Path) -> set[str]:
    """The folders of `nodes` (and kernels) that a module below `nodes` imports from, at any depth."""
    found, inside = set(), file.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level]
            for words in [(node.module or "").split(".")] if node.module else [[name.name] for name in node.names]:
                path = (*base, *words)
                found.add(path[1] if path[0] == "nodes" and len(path) > 1 else path[0])
    return found


def test_slices_do_not_import_each_other():
    """app -> slices -> engine -> kernels: what two slices need moves down into the engine."""
    slices = {path.name for path in (ROOT / "nodes").iterdir() if (path / "__init__.py").exists()} - {"app", "engine"}
    assert {"grounding", "router", "sms", "metrics", "tinyworld"} <= slices
    wrong = []
    for file in (ROOT / "nodes").rglob("*.py"):
        own = file.relative_to(ROOT / "nodes").parts[0]
        above = {"engine": slices | {"app"}}.get(own, (slices - {own}) | {"app"} if own in slices else set())
        wrong += [f"{file.relative_to(ROOT)} imports {name}" for name in imported_folders(file) & above]
    assert not wrong


def test_the_root_has_no_relative_import_at_module_level():
    body = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body
    assert not [node for node in body if isinstance(node, ast.ImportFrom) and node.level]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="NODE_CLASS_MAPPINGS"):
        _ = regionstyle.NODE_CLASS_MAPPINGS
    assert "kernels" in dir(regionstyle)


HEAVY = ("torch", "numpy", "diffusers", "transformers", "peft", "PIL", "skimage", "scipy")
IMPORT = f"""
import sys, time
started = time.process_time()  # not the wall clock: other programs may be busy
import regionstyle
seconds = time.process_time() - started
assert not [name for name in {HEAVY} if name in sys.modules]
sys.stderr.write(str(seconds))
"""


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_import_is_quick_and_silent():
    runs = [python(IMPORT) for _ in range(3)]
    for run in runs:
        assert run.returncode == 0, run.stderr
        assert run.stdout == ""
    assert min(float(run.stderr) for run in runs) < 0.3


def test_lazy_names_lead_to_the_packages():
    run = python("import regionstyle; regionstyle.kernels.__all__; regionstyle.nodes; assert regionstyle.WEB_DIRECTORY")
    assert run.returncode == 0, run.stderr


def test_the_entry_point_is_a_coroutine_function():
    run = python(
        "import importlib.util, inspect, regionstyle\n"
        "assert inspect.iscoroutinefunction(regionstyle.comfy_entrypoint)\n"
        "assert not hasattr(regionstyle, 'NODE_CLASS_MAPPINGS')"
    )
    assert run.returncode == 0, run.stderr


def test_the_ci_runs_the_line_of_the_readme():
    line = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show"], capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
    assert "pytest" in line
    assert "\n" not in line
    assert line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", str(ROOT)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_mypy_finds_nothing():
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "regionstyle"]
    # Not from the root: ComfyUI's module `nodes`, which one file imports, would be taken for our folder of that name.
    linked = {} if "site-packages" in INSTALLED.parts else {"MYPYPATH": str(INSTALLED.parent)}
    environment = {**os.environ, **linked}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "tests", env=environment, timeout=900)
    assert done.returncode == 0, done.stdout


def test_pictures_of_help_pages_are_where_the_frontend_looks():
    """ComfyUI's frontend puts the docs folder of a pack before a relative address, whatever page it is on."""
    docs, seen = ROOT / "nodes" / "web" / "docs", 0
    for page in docs.glob("*/en.md"):
        for address in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (docs / address).is_file(), (page.parent.name, address)
            assert (docs / address).stat().st_size < 70_000, address
            seen += 1
    assert seen > 10


def test_every_help_page_says_what_works_where():
    """The row of the table of networks and versions; what works everywhere says so in words."""
    pages = list((ROOT / "nodes" / "web" / "docs").glob("*/en.md"))
    assert len(pages) > 30
    silent = [page.parent.name for page in pages if "0.3.64" not in page.read_text(encoding="utf-8")]
    assert not silent
