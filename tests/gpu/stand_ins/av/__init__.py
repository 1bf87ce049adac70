"""Stands in for PyAV on a machine that the real one (35 MB) does not travel to.

ComfyUI imports it when it starts and opens pictures with it. Here every file is one without frames, and for such a file
ComfyUI's Load Image takes Pillow, as it does for animated WebP. Whatever else is called says that PyAV is not there.
"""

import sys
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any


class _AbsentClass(type):
    """A class of classes that can be named, with all their attributes, and not be used."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AbsentClass(f"{cls.__name__}.{name}", (), {})

    def __call__(cls, *_args: Any, **_named: Any) -> Any:
        raise ImportError(f"{cls.__name__}: PyAV is not on this machine, video cannot be read or written.")


class _AbsentModule(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AbsentClass(f"{self.__name__}.{name}", (), {})


class _WithoutFrames:
    """A file that is open for reading and holds one video of no frames."""

    def __init__(self) -> None:
        video = SimpleNamespace(time_base=Fraction(1), average_rate=None)
        self.streams, self.metadata = SimpleNamespace(video=[video], audio=[]), {}

    def __enter__(self) -> "_WithoutFrames":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def demux(self, *_streams: Any) -> list[Any]:
        return []


def _open(_file: Any, mode: str = "r", **_options: Any) -> _WithoutFrames:
    if mode != "r":
        raise ImportError("av.open: PyAV is not on this machine, video cannot be written.")
    return _WithoutFrames()


for _name in ("av", "av.container", "av.subtitles", "av.subtitles.stream", "av.video", "av.video.reformatter"):
    sys.modules[_name] = _AbsentModule(_name)
    _parent, _, _child = _name.rpartition(".")
    if _parent:
        setattr(sys.modules[_parent], _child, sys.modules[_name])
sys.modules["av"].open = _open  # type: ignore[attr-defined]
