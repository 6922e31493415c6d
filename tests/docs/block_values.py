"""Commands in this process, and the values that pages show: TOML by its schema, JSON by what was printed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocks import ROOT, Block, BlockError


def run_command(words: list[str]) -> tuple[int, str, str]:
    """``prostate-mim WORDS`` in this process: exit code, stdout, stderr."""
    from prostate_mim import cli

    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, warnings.showwarning, signal.getsignal(signal.SIGTERM))
    sys.argv, code = ["prostate-mim", *words], 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        code = 1
        err.write(traceback.format_exc())
    finally:
        sys.argv, warnings.showwarning = before[:2]
        signal.signal(signal.SIGTERM, before[2])
    return code, out.getvalue(), err.getvalue()


def check_toml(block: Block, folder: Path, schema: str) -> None:
    """A TOML block, as the page has it, by the schema of what reads it."""
    from prostate_mim.config import read_config
    from prostate_mim.errors import ProstateMimError
    from prostate_mim.pretraining import PretrainConfig
    from prostate_mim.study import read_study

    path = folder / "as-on-the-page.toml"
    path.write_text(block.text, encoding="utf-8")
    try:
        if schema == "study":
            read_study(path)
        elif schema == "pretrain":
            read_config(path, PretrainConfig)
        elif schema == "card":
            read_config(path, _zoo_recipe().Recipe)
            if block.text.strip() != (ROOT / block.page).with_name("training.toml").read_text().strip():
                raise BlockError(f"{block}: training.toml beside it is another")
        else:
            raise BlockError(f"{block}: schema {schema!r} is unknown")
    except ProstateMimError as error:
        raise BlockError(f"{block}: {error}") from error


def _zoo_recipe() -> Any:
    spec = importlib.util.spec_from_file_location("zoo_recipe", ROOT / "hub_cards/zoo/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def difference(shown: Any, real: Any, at: str = "") -> str:
    """How a shown value differs in kind from a real one; empty if it does not. A key ``…`` stands for more keys."""
    if isinstance(shown, dict) and isinstance(real, dict):
        wrong = shown.keys() - real.keys() - {"…"} or (set() if "…" in shown else real.keys() - shown.keys())
        if wrong:
            return f"{at}: keys {sorted(wrong)}"
        return next(filter(None, (difference(shown[key], real[key], f"{at}.{key}") for key in shown if key != "…")), "")
    if isinstance(shown, list) and isinstance(real, list):
        return difference(shown[0], real[0], f"{at}[0]") if shown and real else ""
    numbers = isinstance(shown, int | float) and isinstance(real, int | float)
    return "" if numbers or type(shown) is type(real) else f"{at}: {type(shown).__name__} for {type(real).__name__}"


def objects(text: str) -> Iterator[Any]:
    """The JSON objects of an output, one a line or over several lines."""
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            yield value
        except ValueError:
            at += 1
