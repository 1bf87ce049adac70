"""Collects what a bare machine lacks into one folder: python tests/gpu/pack.py [--comfy FOLDER] [--there FILE]

Wheels of the packages that are neither in `--there` nor left out, and a ComfyUI tree without its tokenizers of large
models, its API nodes and its tests, into `build/gpu`. What is there already is made anew. Prints what travels and how
large it is, this checkout included, and refuses (exit code 1, nothing left in the folder) what is above the limit.
Needs a network and pip; the machine that it is for needs neither.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_MIB = 64
MIB = 2**20

# What ComfyUI names and a server without a browser does not need. `stand_ins` has what it imports all the same.
LEFT_OUT = {
    "comfyui-frontend-package": "no browser",
    "comfyui-workflow-templates": "no browser",
    "comfyui-embedded-docs": "no browser",
    "av": "35 MB, video only",
    "kornia": "some of ComfyUI's own image nodes only",
    "pyopengl": "shader nodes only",
    "comfy-angle": "shader nodes only",
    "pydantic": "configuration of packs only",
    "pydantic-settings": "configuration of packs only",
}
MACHINE_CODE = ("comfy-aimdo",)  # whose wheel without machine code does nothing
OWN = ("pytest", "pytest-timeout", "pytest-xdist")
TREE_WITHOUT = (
    r"\..*", r".*/__pycache__", r"(tests|tests-unit|blueprints|models|input|output|temp|user|custom_nodes)",
    r"(comfy_api_nodes|script_examples)", r"comfy/text_encoders/\w*_tokenizer", r"openapi\.yaml",
)  # fmt: skip
WITHOUT_GIT = re.compile(r"^(build|\.venv[^/]*|[^/]*\.egg-info|shared)(/|$)|__pycache__|\.\w+_cache")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(lines: list[str]) -> list[str]:
    """The requirements of a requirements file, without comments."""
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def own_name(requirement: str) -> str:
    return plain(re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0])


def versions_of(lines: list[str]) -> dict[str, str]:
    """Name -> version of the lines of a `--there` file; "" where a line is a name alone."""
    return {own_name(line): line.partition("==")[2].strip() for line in names_of(lines)}


def fits(there: dict[str, str], requirement: str) -> bool:
    """Whether the machine has a package, in a version that the requirement takes."""
    from packaging.requirements import Requirement

    wanted, name = Requirement(requirement).specifier, own_name(requirement)
    return name in there and (not there[name] or wanted.contains(there[name], prereleases=True))


class Wheels:
    """Downloads wheels, and those that they need, until nothing is missing."""

    def __init__(self, folder: Path, there: dict[str, str], version: str) -> None:
        """there: name -> version of what the machine has, "" where any will do."""
        self.folder, self.there, self.version = folder, there, version
        self.known = set(LEFT_OUT)

    def add(self, requirement: str) -> None:
        """One package and what it needs; RuntimeError where there is no wheel."""
        name = own_name(requirement)
        if name in self.known or fits(self.there, requirement):
            return
        self.known.add(name)
        for needed in self._needs(self._download(requirement)):
            self.add(needed)

    def _download(self, requirement: str) -> Path:
        """A wheel that runs anywhere if there is one: it is the smaller one where the other holds machine code."""
        before = set(self.folder.glob("*.whl"))
        anywhere = ["--implementation", "py", "--abi", "none", "--platform", "any"]
        machine = ["--implementation", "cp", *(part for p in PLATFORMS for part in ("--platform", p))]
        said = ""
        for kind in (machine,) if own_name(requirement) in MACHINE_CODE else (anywhere, machine):
            line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            line += ["--python-version", self.version, *kind, "-d", str(self.folder), requirement]
            done = subprocess.run(line, capture_output=True, text=True)
            if new := set(self.folder.glob("*.whl")) - before:
                return new.pop()
            said = done.stderr
        raise RuntimeError(f"{requirement}: no wheel for Python {self.version}:\n{said}")

    def _needs(self, wheel: Path) -> list[str]:
        from packaging.requirements import Requirement

        with zipfile.ZipFile(wheel) as file:
            metadata = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
            text = file.read(metadata).decode()
        short = ".".join(self.version.split(".")[:2])
        machine = {"python_version": short, "python_full_version": f"{short}.0", "sys_platform": "linux", "extra": "",
                   "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}  # fmt: skip
        found = [Requirement(line) for line in Parser().parsestr(text).get_all("Requires-Dist", [])]
        return [f"{r.name}{r.specifier}" for r in found if r.marker is None or r.marker.evaluate(machine)]


def pack_tree(comfy: Path, file: Path) -> None:
    """A ComfyUI folder as one compressed file, without TREE_WITHOUT."""
    without = [re.compile(pattern) for pattern in TREE_WITHOUT]

    def chosen(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = item.name.removeprefix("ComfyUI").lstrip("/")
        return None if path and any(pattern.fullmatch(path) for pattern in without) else item

    with tarfile.open(file, "w:xz") as archive:
        archive.add(comfy, "ComfyUI", filter=chosen)


def checkout_files() -> list[Path]:
    """What travels of this checkout: files that git does not ignore; in a copy without git, all but WITHOUT_GIT."""
    if not (ROOT / ".git").exists():
        return [file for file in sorted(ROOT.rglob("*")) if not WITHOUT_GIT.search(str(file.relative_to(ROOT)))]
    line = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in listed if name]


def checkout_size() -> int:
    """Bytes of what travels of this checkout."""
    return sum(file.lstat().st_size for file in checkout_files() if file.is_file())


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def fill(folder: Path, args: argparse.Namespace) -> None:
    there = versions_of(args.there.read_text(encoding="utf-8").splitlines())
    wheels = Wheels(folder / "wheels", there, args.python_version)
    comfy = names_of((args.comfy / "requirements.txt").read_text(encoding="utf-8").splitlines())
    for requirement in (*names_of((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()), *comfy, *OWN):
        wheels.add(requirement.replace(" ", ""))
    pack_tree(args.comfy, folder / "ComfyUI.tar.xz")


def report(folder: Path, limit: float) -> bool:
    """Writes what travels to stdout; whether it is within the limit, in MiB."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        sys.stdout.write(f"{file.stat().st_size / MIB:8.2f} MiB  {file.relative_to(folder)}\n")
    own, packed = checkout_size() / MIB, size_of(folder) / MIB
    for name, why in LEFT_OUT.items():
        sys.stdout.write(f"  left out    {name}: {why}\n")
    sys.stdout.write(f"{own:8.2f} MiB  this checkout\n{own + packed:8.2f} MiB  in all, of {limit:g}\n")
    return own + packed <= limit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfy", type=Path, help="a ComfyUI (default: the one the tests find)")
    parser.add_argument(
        "--there", type=Path, default=HERE / "there.txt", help="what the machine has: lines NAME or NAME==VERSION"
    )
    parser.add_argument("--python-version", default="3.12", help="the machine's Python")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, help="MiB that can travel, checkout included")
    args = parser.parse_args()
    if args.comfy is None:
        from regionstyle.nodes.app.comfyui.install import find_comfy

        args.comfy = find_comfy()
    with TemporaryDirectory() as folder:
        (Path(folder) / "wheels").mkdir()
        fill(Path(folder), args)
        shutil.rmtree(args.out, ignore_errors=True)
        if not report(Path(folder), args.limit):
            sys.stderr.write(f"More than {args.limit:g} MiB: leave more out, or raise --limit where more can travel.\n")
            return 1
        shutil.copytree(folder, args.out)
    sys.stdout.write(f"{args.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
