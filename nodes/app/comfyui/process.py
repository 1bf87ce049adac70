"""ComfyUI's own executor without a server, in a process of ComfyUI's own Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError
from ..files import free_name
from ..workflow.workflow import Prompt
from .errors import failed, interrupted, refused
from .install import PACKAGE, comfy_python
from .results import Result, listed_files, listed_texts, safe_path

OnEvent = Callable[[str, Mapping[str, Any]], None]
STOP_SECONDS = 30.0


class ProcessComfy:
    """`definitions`, `upload`, `execute` and `results` with a ComfyUI folder; `close` ends the process.

    child.py runs there and speaks in lines of JSON: one request, then events, then one answer. What it writes goes to
    a folder of its own, which `close` removes unless `keep` was called.
    """

    def __init__(self, comfy: Path):
        self.place = f"the ComfyUI in {comfy}"
        self._python = comfy_python(comfy)
        self._folder = Path(tempfile.mkdtemp(prefix="regionstyle-"))
        self._copies: list[Path] = []
        self._outputs: Mapping[str, Any] = {}
        self._began, self._keep = time.time(), False
        self._log = (self._folder / "comfyui.log").open("w+b")
        self._process = self._start(comfy)
        try:
            folders = self._answer()
            self._input_folder, self._output_folder = Path(folders["input_folder"]), Path(folders["output_folder"])
        except BaseException:
            self.close()
            raise

    def _start(self, comfy: Path) -> subprocess.Popen[str]:
        child = Path(__file__).with_name("child.py")
        command = [str(self._python), str(child), str(comfy), str(PACKAGE), str(self._folder)]
        environment = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            command, cwd=comfy, env=environment, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def definitions(self, names: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = self._ask({"do": "describe", "names": sorted(names)})["definitions"]
        return found

    def upload(self, file: Path) -> str:
        """Copies the file into ComfyUI's input folder under a name that is free there; `close` removes the copy."""
        place = free_name(self._input_folder / file.name)
        shutil.copyfile(file, place)
        self._copies.append(place)
        return place.name

    def execute(self, prompt: Prompt, on_event: OnEvent, *, partial: bool = False) -> Mapping[str, Any]:
        """Runs the prompt; returns ComfyUI's errors of nodes whose branches were left out (`partial`), by node id.

        RegionStyleError where ComfyUI refuses the prompt or a part of it, or a node fails. Ctrl-C interrupts the node
        that works. `results` has what was made, in each of these cases.
        """
        try:
            answer = self._ask({"do": "execute", "prompt": prompt, "partial": partial}, on_event)
        except KeyboardInterrupt:
            self._interrupt()
            self._outputs = self._last_outputs()
            raise
        if "refused" in answer:
            raise refused(prompt, *answer["refused"])
        self._outputs = answer["outputs"]
        if "failed" in answer:
            raise failed(prompt, answer["failed"])
        if "interrupted" in answer:
            raise interrupted()
        node_errors: Mapping[str, Any] = answer["node_errors"]
        return node_errors

    def results(self) -> list[Result]:
        """What nodes saved and showed, as far as they list it, then every other file in ComfyUI's output folder."""
        files = {}
        for entry in listed_files(self._outputs):
            base = self._folder / entry["type"]
            files[base / safe_path(entry)] = safe_path(entry)
        output = self._folder / "output"
        files.update((path, path.relative_to(output)) for path in sorted(output.rglob("*")) if path.is_file())
        return [Result(name, partial(shutil.copyfile, path)) for path, name in files.items() if path.is_file()]

    def texts(self) -> list[tuple[str, str]]:
        """(node id, text) of what the nodes of the last prompt say of themselves in their outputs."""
        return list(listed_texts(self._outputs))

    def unfinished(self) -> list[Path]:
        """The states of trainings that this run left unfinished, in the user's output folder."""
        states = (self._output_folder / "regionstyle").glob("*.pt")
        return sorted(path for path in states if path.stat().st_mtime >= self._began)

    def keep(self) -> Path:
        """What was made stays after `close`; the folder it is in."""
        self._keep = True
        return self._folder / "output"

    def close(self) -> None:
        """Ends the process and removes everything that was written for it."""
        self._stop()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        for copy in self._copies:
            copy.unlink(missing_ok=True)
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        """The end of the requests, at which the child leaves by itself; it is killed if it takes too long."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _interrupt(self) -> None:
        """The child turns the signal into ComfyUI's own interrupt; twice (terminal and here) does no harm."""
        if sys.platform == "win32":
            self._process.terminate()
        else:
            self._process.send_signal(signal.SIGINT)

    def _last_outputs(self) -> Mapping[str, Any]:
        """What an interrupted prompt had made; the child is killed if it does not end in time."""
        killer = threading.Timer(STOP_SECONDS, self._process.kill)
        killer.start()
        try:
            outputs: Mapping[str, Any] = self._answer().get("outputs", {})
            return outputs
        except RegionStyleError:
            return {}
        finally:
            killer.cancel()

    def _ask(self, request: Mapping[str, Any], on_event: OnEvent = lambda kind, data: None) -> dict[str, Any]:
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("the process was started without a pipe")
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self._answer(on_event)

    def _answer(self, on_event: OnEvent = lambda kind, data: None) -> dict[str, Any]:
        """The next answer; events before it are passed on."""
        for line in self._process.stdout or ():
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                on_event(message["event"], message["data"])
            elif "problem" in message:
                raise RegionStyleError(self._explain(message["problem"]))
            else:
                return message
        raise self._died()

    def _died(self) -> RegionStyleError:
        self._process.wait(STOP_SECONDS)
        self._log.seek(0)
        text = self._log.read().decode("utf-8", "replace").strip()
        last = text.splitlines()[-1] if text else f"exit code {self._process.returncode}"
        error = RegionStyleError(self._explain(last))
        error.__cause__ = RuntimeError(f"ComfyUI wrote:\n{text[-6000:]}")  # shown by --verbose
        return error

    def _explain(self, problem: str) -> str:
        return (
            f"{self.place} did not work with {self._python}: {problem}. If a package is missing, install there what "
            f"ComfyUI's requirements.txt and {PACKAGE / 'requirements.txt'} name; COMFYUI_PYTHON names another Python."
        )
