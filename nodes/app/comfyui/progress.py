"""The progress bar of a running workflow, one line per node that reports steps, and what nodes say of themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ..workflow.workflow import Prompt
from ..workflow.workflow_edit import node_title

LONGEST_LINE = 300  # characters of what a node says


class RunProgress:
    """Turns ComfyUI's events into bars on stderr, which are left out when stderr is not a terminal, and lines."""

    def __init__(self, prompt: Prompt):
        self._prompt = prompt
        self._node: str | None = None
        self._bar: Any = None
        self._said: set[tuple[str, str]] = set()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finish(complete=kind is None)

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        """kind: ComfyUI's event name; data: with `node`, and for "progress" `value` and `max`."""
        node = data.get("node")
        if node is None or str(node) not in self._prompt:
            return
        if kind == "executing":
            self._show(str(node), 1, 0)
        elif kind == "text":
            self.say(str(node), data["text"])
        elif kind == "progress":
            self._show(str(node), data["max"], data["value"])

    def say(self, node: str, text: str) -> None:
        """One line on stderr, once for each text of a node."""
        # As it is drawn (`engine/host/messages.py`) and as it is kept in /history, a text is one and the same line.
        parts = (part.removesuffix(";") for part in text.replace("\u200b", "").splitlines())
        line = " ".join("; ".join(part for part in parts if part.strip()).split())
        line = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
        if line and node in self._prompt and (node, line) not in self._said:
            self._said.add((node, line))
            if self._bar is not None:
                self._bar.clear()
            sys.stderr.write(f"{node_title(self._prompt, node)}: {line}\n")

    def _show(self, node: str, total: float, done: float) -> None:
        from tqdm import tqdm

        if node != self._node:
            self._finish(complete=True)  # the next node only starts when this one has ended
            title = node_title(self._prompt, node)
            self._node, self._bar = node, tqdm(desc=title, total=total, file=sys.stderr, disable=None)
        self._bar.total = total
        self._bar.n = done
        self._bar.refresh()

    def _finish(self, *, complete: bool) -> None:
        if self._bar is not None:
            self._bar.n = self._bar.total if complete else self._bar.n
            self._bar.refresh()
            self._bar.close()
        self._node = self._bar = None
