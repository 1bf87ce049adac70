"""The layers of nodes/app: argparse ends at the command line, and nothing but it knows the command line."""

import ast
from pathlib import Path

import regionstyle

NODES = Path(regionstyle.__file__).parent / "nodes"
CLI = NODES / "app" / "cli"


def modules(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if CLI not in path.parents]


def imported(path: Path) -> set[str]:
    """Modules that a module imports, at any depth: "argparse", and relative ones as "app.cli.main"."""
    names, inside = set(), path.relative_to(NODES).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*inside[: len(inside) - node.level], *filter(None, [node.module])] if node.level else [node.module]
            names |= {".".join(base), *(".".join([*base, alias.name]) for alias in node.names)}
    return names


def uses_command_line(path: Path) -> bool:
    return any(f"{name}.".startswith("app.cli.") for name in imported(path))


def test_argparse_ends_at_the_command_line():
    everywhere = modules(NODES)
    assert len(everywhere) > 150
    assert not [str(path) for path in everywhere if "argparse" in imported(path)]
    assert not [str(path) for path in everywhere if "Namespace" in path.read_text(encoding="utf-8")]


def test_nothing_but_the_command_line_imports_it():
    """So no ComfyUI node does, nor the Python API, nor report and benchmark."""
    users = {
        str(path): {name for name in imported(path) if f"{name}.".startswith("app.cli.")} for path in modules(NODES)
    }
    assert not {path: names for path, names in users.items() if names}


def test_the_checks_see_what_they_look_for():
    """A module of the command line itself imports both."""
    path = CLI / "report.py"
    assert "argparse" in imported(path)
    assert uses_command_line(path)
