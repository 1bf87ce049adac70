"""ComfyUI's own executor without a server, in a process of ComfyUI's own Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError
from ..files import free_name
from .errors import failed, interrupted, refused
from .install import PACKAGE, comfy_python
from .workflow import Prompt

OnEvent = Callable[[str, Mapping[str, Any]], None]
STOP_SECONDS = 30.0


class ProcessComfy:
    """`definitions`, `upload`, `execute` and `read` with a ComfyUI folder; `close` ends the process.

    comfy_child.py runs there and speaks in lines of JSON: one request, then events, then one answer.
    """

    def __init__(self, comfy: Path):
        self.place = f"the ComfyUI in {comfy}"
        self._python = comfy_python(comfy)
        self._folder = Path(tempfile.mkdtemp(prefix="regionstyle-"))
        self._copies: list[Path] = []
        self._log = (self._folder / "comfyui.log").open("w+b")
        self._process = self._start(comfy)
        try:
            self._input_folder = Path(self._answer()["input_folder"])
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

    def read(self, image: Mapping[str, Any]) -> bytes:
        return Path(image["path"]).read_bytes()

    def execute(self, prompt: Prompt, on_event: OnEvent) -> dict[str, Any]:
        """Runs the prompt and returns the outputs of its nodes; Ctrl-C interrupts the node that works."""
        try:
            answer = self._ask({"do": "execute", "prompt": prompt}, on_event)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        if "refused" in answer:
            raise refused(prompt, *answer["refused"])
        if "failed" in answer:
            raise failed(prompt, answer["failed"])
        if "interrupted" in answer:
            raise interrupted()
        outputs: dict[str, Any] = answer["outputs"]
        return outputs

    def close(self) -> None:
        """Ends the process and removes everything that was written for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()  # the end of the requests: the child leaves by itself
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        for copy in self._copies:
            copy.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _interrupt(self) -> None:
        """The child turns the signal into ComfyUI's own interrupt; twice (terminal and here) does no harm."""
        if sys.platform == "win32":
            self._process.terminate()
        else:
            self._process.send_signal(signal.SIGINT)

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
