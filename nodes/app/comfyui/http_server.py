"""A running ComfyUI, reached over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp

from ...engine.errors import RegionStyleError
from ..workflow.workflow import Prompt
from .errors import failed, interrupted, refused
from .results import Result, listed_files, listed_texts, safe_path

Answer = TypeVar("Answer")
Web = aiohttp.ClientSession
OnEvent = Callable[[str, Mapping[str, Any]], None]

POLL_SECONDS = 2.0  # how long a lost websocket message can delay the end
CANCEL_SECONDS, CANCEL_TRIES = 0.25, 20  # a node that looks at the interrupt more seldom ends later by itself
TEXT_EVENT = 3  # ComfyUI's BinaryEventTypes.TEXT
LARGEST_MESSAGE = 256 * 2**20  # previews of large pictures


class ServerComfy:
    """`definitions`, `upload`, `execute` and `results` against the server at `url`, each over its own connection."""

    def __init__(self, url: str):
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.place = f"the ComfyUI at {self.url}"
        self._client_id = str(uuid.uuid4())
        self._outputs: Mapping[str, Any] = {}

    def close(self) -> None:
        """Nothing is held between calls."""

    def definitions(self, names: set[str]) -> dict[str, Any]:
        """`/object_info` of these node classes; unknown ones are absent."""

        async def fetch(web: Web) -> dict[str, Any]:
            known: dict[str, Any] = {}
            for name in sorted(names):
                known.update(await _json(web.get(f"{self.url}/object_info/{quote(name, safe='')}")))
            return known

        return self._call(fetch)

    def upload(self, file: Path) -> str:
        """The name of the file in the server's input folder. The server keeps both when another has that name."""

        async def send(web: Web) -> str:
            form = aiohttp.FormData()
            form.add_field("image", file.read_bytes(), filename=file.name)
            reply = await _json(web.post(f"{self.url}/upload/image", data=form))
            return "/".join(part for part in (reply.get("subfolder"), reply["name"]) if part)

        return self._call(send)

    def results(self) -> list[Result]:
        """What the nodes of the last prompt list as written or shown: the server tells of nothing else."""
        entries = {(safe_path(entry), entry["type"]): entry for entry in listed_files(self._outputs)}
        return [Result(name, partial(self._download, entry)) for (name, _), entry in entries.items()]

    def texts(self) -> list[tuple[str, str]]:
        """(node id, text) of what the nodes of the last prompt say of themselves in their outputs."""
        return list(listed_texts(self._outputs))

    def unfinished(self) -> list[Path]:
        """Nothing is known: they are on the server, in its output folder."""
        return []

    def keep(self) -> None:
        """What was made is on the server."""

    def _download(self, entry: Mapping[str, Any], place: Path) -> None:
        async def fetch(web: Web) -> None:
            query = urlencode({key: entry.get(key) or "" for key in ("filename", "subfolder", "type")})
            async with web.get(f"{self.url}/view?{query}") as reply:
                reply.raise_for_status()
                with place.open("wb") as file:
                    async for chunk in reply.content.iter_chunked(2**20):
                        file.write(chunk)

        self._call(fetch)

    def execute(self, prompt: Prompt, on_event: OnEvent, *, partial: bool = False) -> Mapping[str, Any]:
        """Runs the prompt; returns ComfyUI's errors of nodes whose branches were left out (`partial`), by node id.

        RegionStyleError where ComfyUI refuses the prompt or a part of it, or a node fails. Ctrl-C takes the prompt off
        the server. `results` has what was made.
        """
        prompt_id, self._outputs = str(uuid.uuid4()), {}
        try:
            node_errors, history = self._call(lambda web: self._run(web, prompt, prompt_id, on_event, partial))
        except KeyboardInterrupt:
            self._call(lambda web: self._cancel(web, prompt_id))
            raise
        self._outputs = history.get("outputs", {})
        _check_status(prompt, history)
        return node_errors

    def _call(self, work: Callable[[Web], Coroutine[Any, Any, Answer]]) -> Answer:
        async def connected() -> Answer:
            async with aiohttp.ClientSession() as web:
                return await work(web)

        try:
            return asyncio.run(connected())
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise RegionStyleError(
                f"--server {self.url}: no answer from a ComfyUI there ({str(error) or type(error).__name__}). "
                "Start it, or check the address."
            ) from error

    async def _run(
        self, web: Web, prompt: Prompt, prompt_id: str, on_event: OnEvent, partial: bool
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        address = f"{self.url}/ws?clientId={self._client_id}"
        async with web.ws_connect(address, max_msg_size=LARGEST_MESSAGE) as socket:
            prompt_id, node_errors = await self._submit(web, prompt, prompt_id)
            if node_errors and not partial:  # a server runs what passes, and asks nobody
                await self._cancel(web, prompt_id)
                raise refused(prompt, None, node_errors)
            while (history := await self._history(web, prompt_id)) is None:
                await _follow(socket, prompt_id, on_event)
        return node_errors, history

    async def _submit(self, web: Web, prompt: Prompt, prompt_id: str) -> tuple[str, Mapping[str, Any]]:
        """The id that the server gave the prompt, and its errors of nodes whose branches it leaves out."""
        body = {"prompt": prompt, "client_id": self._client_id, "prompt_id": prompt_id}
        async with web.post(f"{self.url}/prompt", json=body) as reply:
            text = await reply.text()
            # 0.33 answers a body that it did not expect with plain text.
            answer: dict[str, Any] = json.loads(text) if "json" in reply.content_type else {"error": text}
            if reply.status != 200:
                raise refused(prompt, answer.get("error"), answer.get("node_errors") or {})
        return str(answer["prompt_id"]), answer.get("node_errors") or {}

    async def _history(self, web: Web, prompt_id: str) -> dict[str, Any] | None:
        entry: dict[str, Any] | None = (await _json(web.get(f"{self.url}/history/{prompt_id}"))).get(prompt_id)
        return entry

    async def _cancel(self, web: Web, prompt_id: str) -> None:
        """Out of the queue if it waits there, interrupted if it runs; other people's prompts are left alone.

        Asked again until the prompt is gone: ComfyUI forgets an interrupt that comes in the moment a prompt starts.
        """
        for _ in range(CANCEL_TRIES):
            await web.post(f"{self.url}/queue", json={"delete": [prompt_id]})
            await web.post(f"{self.url}/interrupt", json={"prompt_id": prompt_id})
            await asyncio.sleep(CANCEL_SECONDS)
            if not await self._is_queued(web, prompt_id):
                return

    async def _is_queued(self, web: Web, prompt_id: str) -> bool:
        """Whether the prompt waits or runs."""
        queue = await _json(web.get(f"{self.url}/queue"))
        return any(item[1] == prompt_id for item in queue["queue_running"] + queue["queue_pending"])


async def _json(request: Any) -> dict[str, Any]:
    async with request as reply:
        reply.raise_for_status()
        answer: dict[str, Any] = await reply.json(content_type=None)
        return answer


async def _follow(socket: Any, prompt_id: str, on_event: OnEvent) -> None:
    """Passes events on until the prompt ends, or nothing comes for a while, or the connection is lost."""
    while True:
        try:
            message = await socket.receive(timeout=POLL_SECONDS)
        except asyncio.TimeoutError:
            return
        if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
            await asyncio.sleep(POLL_SECONDS)  # the history is still there to ask
            return
        if message.type == aiohttp.WSMsgType.BINARY:
            _say_text(message.data, on_event)
        if message.type == aiohttp.WSMsgType.TEXT and _is_end(json.loads(message.data), prompt_id, on_event):
            return


def _say_text(message: bytes, on_event: OnEvent) -> None:
    """What a node says of itself: four bytes of kind, four of the length of the node's id, id and text."""
    kind, length = (int.from_bytes(message[at : at + 4], "big") for at in (0, 4))
    if kind == TEXT_EVENT:
        node, text = message[8 : 8 + length], message[8 + length :]
        on_event("text", {"node": node.decode(), "text": text.decode("utf-8", "replace")})


def _is_end(event: Mapping[str, Any], prompt_id: str, on_event: OnEvent) -> bool:
    data = event.get("data") or {}
    if data.get("prompt_id") != prompt_id:
        return False
    on_event(event["type"], data)
    ended = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
    return ended or (event["type"] == "executing" and data.get("node") is None)


def _check_status(prompt: Prompt, history: Mapping[str, Any]) -> None:
    """RegionStyleError for a prompt that failed or was interrupted."""
    for kind, data in history.get("status", {}).get("messages", []):
        if kind == "execution_error":
            raise failed(prompt, data)
        if kind == "execution_interrupted":
            raise interrupted()
