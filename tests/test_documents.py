"""What the documents say is so: links lead somewhere, the map is the tree, and the README's example runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "bench" / "RESULTS.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAPERS = ("2602.19254", "2503.07601", "2405.16330", "2508.09746")


def code_block(text: str, marker: str) -> str:
    """The fenced block after an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, marker
    return found[1]


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub makes link targets of them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_internal_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    for path, _, anchor in (link.partition("#") for link in links):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), (document.name, path)
        assert not anchor or anchor in anchors(target), (document.name, path, anchor)


def test_paths_named_in_the_documents_exist():
    for text in (README, CONTRIBUTING):
        named = re.findall(r"\b((?:nodes|kernels|tests|workflows)/[\w./-]+\.(?:py|json|png|md|safetensors))\b", text)
        assert named
        missing = {path for path in named if not (ROOT / path).exists() and "NAME" not in path}
        assert not missing


def test_the_readme_is_what_a_user_needs():
    assert len(README.splitlines()) <= 150
    assert all(f"https://arxiv.org/abs/{paper}" in README for paper in PAPERS)
    assert "not yet verified on GPU" in README
    assert code_block(README, "demo command").startswith("python3 -m venv .venv ")


def folders_on_the_map() -> set[str]:
    """The folders of the tree in CONTRIBUTING, by the indentation of its lines."""
    tree = re.search(r"## The map\n\n```\n(.*?)^```", CONTRIBUTING, re.MULTILINE | re.DOTALL)[1]
    path, seen = [], set()
    for indent, name in re.findall(r"^( *)([\w.]+/)?", tree, re.MULTILINE):
        if name:
            path = [*path[: len(indent) // 2], name.rstrip("/")]
            seen.add("/".join(path))
    return seen


def test_the_map_is_the_tree():
    """A folder that came or went is a line of the map in CONTRIBUTING."""
    packages = {
        file.parent.relative_to(ROOT).as_posix()
        for top in ("kernels", "nodes")
        for file in ROOT.glob(f"{top}/**/__init__.py")
    }
    shown = folders_on_the_map()
    assert not packages - shown, "not on the map"
    assert not [folder for folder in shown if not (ROOT / folder).is_dir()], "on the map only"


def test_every_table_of_results_has_its_command():
    results = (ROOT / "tests" / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    for section in results.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        assert re.search(r"`(regionstyle|python tests/bench/)", section), heading
        for script in re.findall(r"`python (tests/bench/\w+\.py)", section):
            assert (ROOT / script).is_file(), script


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path):
    """As it stands, from a folder that has the workflows beside it as a checkout has."""
    (tmp_path / "workflows").mkdir()
    shutil.copy(ROOT / "workflows" / "regionstyle_scene.png", tmp_path / "workflows")
    example = tmp_path / "example.py"
    example.write_text(code_block(README, "python example"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, cwd=tmp_path, env=os.environ.copy(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^orange triangle .* 0\.\d+$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^blue ring .* 0\.\d+$", done.stdout, re.MULTILINE), done.stdout
