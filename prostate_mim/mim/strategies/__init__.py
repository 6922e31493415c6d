"""Which blocks are hidden: one strategy a file. STRATEGIES is the whole registry: a literal dict, name -> class."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from prostate_mim.errors import UsageError
from prostate_mim.mim.lookup import look_up
from prostate_mim.mim.strategies.base import Guide, Hiding, Strategy
from prostate_mim.mim.strategies.batch import BatchHiding, hide_batch
from prostate_mim.mim.strategies.blockwise import Blockwise
from prostate_mim.mim.strategies.column import Columns
from prostate_mim.mim.strategies.frequency import FrequencyBands
from prostate_mim.mim.strategies.genesis import Genesis
from prostate_mim.mim.strategies.gland import GlandWeighted
from prostate_mim.mim.strategies.grid import EvenGrid
from prostate_mim.mim.strategies.hard import Hard
from prostate_mim.mim.strategies.inverse_blockwise import InverseBlockwise
from prostate_mim.mim.strategies.lesion import LesionWeighted
from prostate_mim.mim.strategies.mixture import Mixture
from prostate_mim.mim.strategies.random import RandomBlocks, random_hidden_blocks
from prostate_mim.mim.strategies.ratio import Ratio, check_ratio, parse_ratio
from prostate_mim.mim.strategies.slice import Slices
from prostate_mim.mim.strategies.texture import Texture

__all__ = [
    "STRATEGIES",
    "BatchHiding",
    "Guide",
    "Hiding",
    "Ratio",
    "Strategy",
    "build_strategy",
    "check_ratio",
    "hide_batch",
    "parse_ratio",
    "random_hidden_blocks",
]

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": RandomBlocks,
    "column": Columns,
    "slice": Slices,
    "blockwise": Blockwise,
    "inverse_blockwise": InverseBlockwise,
    "grid": EvenGrid,
    "gland": GlandWeighted,
    "lesion": LesionWeighted,
    "hard": Hard,
    "texture": Texture,
    "frequency": FrequencyBands,
    "genesis": Genesis,
    "mixture": Mixture,
}


def build_strategy(text: str) -> Strategy:
    """Read ``random``, ``gland:weight=8``, ``texture:measure=variance`` or ``mixture:random=0.5,column=0.5``.

    The parts of a mixture have their default settings and need weights, which need not add up to 1.

    Raises:
        NotFoundError: an unknown strategy; the nearest known name is suggested.
        UsageError: a setting that the strategy does not have, or a value it cannot take.
    """
    name, _, rest = text.strip().partition(":")
    maker = look_up("strategy", name, STRATEGIES)
    given = _settings(text, rest)
    if maker is Mixture:
        return Mixture(tuple((_part(part), _number(text, part, weight, float)) for part, weight in given.items()))
    kinds = {key: parameter.annotation for key, parameter in inspect.signature(maker).parameters.items()}
    values: dict[str, float | str] = {}
    for key, value in given.items():
        if key not in kinds:
            raise UsageError(f"strategy {name} has no setting {key!r}; it has: {', '.join(kinds) or 'none'}")
        values[key] = value if kinds[key] == "str" else _number(text, key, value, int if kinds[key] == "int" else float)
    return maker(**values)


def _part(name: str) -> Strategy:
    maker = look_up("strategy", name, STRATEGIES)
    if maker is Mixture:
        raise UsageError("strategy mixture holds a mixture; list its parts side by side")
    return maker()


def _settings(text: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in rest.split(",") if rest else []:
        key, equals, value = (word.strip() for word in item.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"strategy {text!r} has {item!r} for key=value; write for example gland:weight=8")
        if key in found:
            raise UsageError(f"strategy {text!r} gives {key} twice; give it once")
        found[key] = value
    return found


def _number(text: str, key: str, value: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"strategy {text!r} has {key}={value}, no number; write for example {key}=2") from None
