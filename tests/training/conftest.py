"""The modules of scripts/train.py."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def scripts(monkeypatch) -> None:
    """Modules find each other as they do when the script is run."""
    monkeypatch.syspath_prepend(ROOT / "scripts")


@pytest.fixture
def train_data(scripts) -> ModuleType:
    return importlib.import_module("train_data")


@pytest.fixture
def train_state(scripts) -> ModuleType:
    return importlib.import_module("train_state")


@pytest.fixture
def train_pitch(scripts) -> ModuleType:
    return importlib.import_module("train_pitch")


@pytest.fixture
def train_tracks(scripts) -> ModuleType:
    return importlib.import_module("train_tracks")
