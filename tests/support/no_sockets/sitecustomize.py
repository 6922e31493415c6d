"""Python processes that tests start import this first: they have no network either. See ``socket_guard``."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import socket_guard

socket_guard.install()

# The interpreter imports one module of this name only: whoever had one before still gets it.
_elsewhere = [entry for entry in sys.path if entry and Path(entry).resolve() != Path(__file__).resolve().parent]
_spec = PathFinder.find_spec("sitecustomize", _elsewhere)
if _spec is not None and _spec.loader is not None:
    sys.modules["sitecustomize"] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["sitecustomize"])
