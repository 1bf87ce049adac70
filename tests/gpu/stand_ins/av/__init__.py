"""Stands in for PyAV on a machine that the real one (35 MB) does not travel to.

ComfyUI imports it when it starts, for its video nodes, which nothing here uses: its names can be imported, and whatever
is called says that it is not there.
"""

import sys
from types import ModuleType
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


for _name in ("av", "av.container", "av.subtitles", "av.subtitles.stream", "av.video", "av.video.reformatter"):
    sys.modules[_name] = _AbsentModule(_name)
    _parent, _, _child = _name.rpartition(".")
    if _parent:
        setattr(sys.modules[_parent], _child, sys.modules[_name])
