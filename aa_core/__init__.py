"""Which stage of its training is to credit or to blame for what a model does.

The public names are those of `aa_core.surface`, imported when one of them is used first: what needs no torch, as
`aa dashboard` before its server answers, does not wait for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from aa_core.version import __version__ as __version__

if TYPE_CHECKING:
    from aa_core.surface import *  # noqa: F403


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(import_module("aa_core.surface"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if (name, type(value)) != ("performance", ModuleType):  # a submodule; the function of that name is meant
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})


sys.modules[__name__].__class__ = _Package
