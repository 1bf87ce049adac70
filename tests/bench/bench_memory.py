"""What a server holds after many prompts of the shipped workflows, and whether it grows.

python tests/bench/bench_memory.py [--rounds 6] [--only NAME,NAME] [--trim] [--old]

Runs the tiny world's workflows one after the other on a real ComfyUI, each round with other seeds, and asks the server
after every round what is in memory: its resident size, the same once free pages are given back (`malloc_trim`, in the
last round only, or with --trim after each), and how many tensors, patchers, networks and objects of this
pack are alive. Objects that grow are a leak; resident memory that grows alone is the C library's allocator. --old:
on ComfyUI 0.3.64. Needs a ComfyUI (`COMFYUI_PATH`), Linux. Not a test.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from workflow_networks import loads_public_weights, needs_networks  # noqa: E402

from comfy_server import ComfyServer  # noqa: E402
from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy  # noqa: E402

WORKFLOWS = HERE.parents[1] / "workflows" / "api"
SHORT = {"iterations": 6, "warm_up": 3, "steps": 4}  # of what takes long otherwise
SEEDED = ("seed", "noise_seed")
COLUMNS = ("tensors", "bytes of tensors", "networks", "patchers", "ours", "modules")
HEADERS = ("tensors", "their MiB", "networks", "patchers", "ours", "modules")


def mixed(only: set[str]) -> dict[str, dict[str, Any]]:
    """The workflows that need no other networks than those that ship, by name."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(WORKFLOWS.glob("*.json"))}
    ready = {
        name: graph for name, graph in read.items() if not needs_networks(graph) and not loads_public_weights(graph)
    }
    return {name: graph for name, graph in ready.items() if not only or name in only}


def varied(prompt: dict[str, Any], number: int) -> dict[str, Any]:
    """The same with other seeds, so that nothing comes from ComfyUI's cache, and short."""
    changed = json.loads(json.dumps(prompt))
    for node in changed.values():
        inputs = node["inputs"]
        inputs |= {name: min(inputs[name], most) for name, most in SHORT.items() if isinstance(inputs.get(name), int)}
        inputs |= {name: number for name in SEEDED if name in inputs}
        if "name" in inputs and "Train" in node["class_type"]:
            inputs["name"] = f"{inputs['name']} {number}"
    return changed


def line(label: str, memory: dict[str, Any]) -> str:
    sizes = [f"{memory[key] / 2**20:8.1f}" for key in ("resident", "trimmed")]
    held = memory["held"]
    counts = [f"{held.get(c, 0) / (2**20 if 'bytes' in c else 1):10.{1 if 'bytes' in c else 0}f}" for c in COLUMNS]
    return f"{label:>8} {' '.join(sizes)} {' '.join(counts)}"


def grown(first: dict[str, int], last: dict[str, int]) -> str:
    more = {name: last[name] - first.get(name, 0) for name in last if last[name] > first.get(name, 0)}
    return ", ".join(f"{name} +{count}" for name, count in sorted(more.items())) or "nothing"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(server: ComfyServer, prompts: dict[str, dict[str, Any]], rounds: int, trim: bool) -> None:
    names = " ".join(f"{name:>10}" for name in HEADERS)
    say(f"{'prompts':>8} {'MiB':>8} {'trimmed':>8} {names}")
    after: list[dict[str, Any]] = []
    for number in range(rounds):
        for prompt in prompts.values():
            history = server.wait(server.post(varied(prompt, number + 1)))
            assert history["status"]["status_str"] == "success", history["status"]
        server.post_json("/history", {"clear": True})
        after.append(server.get("/probe/memory" + ("?trim=1" if trim or number == rounds - 1 else "")))
        say(line(str((number + 1) * len(prompts)), after[-1]))
    if len(after) > 2:
        say(f"grown from round 2 to the last: {grown(after[1]['held'], after[-1]['held'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="", help="names of workflows, commas between them")
    parser.add_argument("--trim", action="store_true")
    parser.add_argument("--old", action="store_true")
    args = parser.parse_args()
    comfy = find_comfy()
    comfy = comfy.with_name("ComfyUI-0.3.64") if args.old else comfy
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfy, comfy_python(comfy), Path(folder))
        try:
            run(server, mixed({name for name in args.only.split(",") if name}), args.rounds, args.trim)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
