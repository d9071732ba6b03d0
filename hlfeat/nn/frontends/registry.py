"""Frontends by the configuration that describes them.

A new frontend is a configuration class in hlfeat/config/frontends.py (with its line in FrontendConfig), and a module in
this folder with a class `@register(ThatConfig) class MyFrontend(Frontend)`. Nothing lists the modules: all of this
folder are imported when the first frontend is built.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from hlfeat.config.base import StrictModel
from hlfeat.nn import frontends
from hlfeat.nn.frontends.base import Frontend

FRONTENDS: dict[type[StrictModel], type[Frontend]] = {}

AnyFrontend = TypeVar("AnyFrontend", bound=type[Frontend])


def register(config: type[StrictModel]) -> Callable[[AnyFrontend], AnyFrontend]:
    """Class decorator: build this frontend, with its `from_config`, where a configuration is of class `config`."""

    def add(frontend: AnyFrontend) -> AnyFrontend:
        FRONTENDS[config] = frontend
        return frontend

    return add


def build_frontend(config: StrictModel, sample_rate: int) -> Frontend:
    """The frontend that a configuration describes, for audio of `sample_rate` hertz.

    Raises:
        ValueError: sizes or frequencies that do not go together.
    """
    if type(config) not in FRONTENDS:
        for module in pkgutil.iter_modules(frontends.__path__, f"{frontends.__name__}."):
            if not module.name.rpartition(".")[2].startswith("_"):  # those of a private one are no frontends
                importlib.import_module(module.name)
    return FRONTENDS[type(config)].from_config(config, sample_rate)
