"""What is public: the names in ``__all__`` of the modules below, found in their sources, which are not imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import prostate_mim

PACKAGE = Path(prostate_mim.__file__).parent
ALL = "__all__"
# Heading -> modules, in the order of the pages.
SECTIONS: dict[str, tuple[str, ...]] = {
    "To begin with": ("prostate_mim", "prostate_mim.errors", "prostate_mim.encoder", "prostate_mim.create"),
    "Studies": (
        "prostate_mim.volume", "prostate_mim.preprocess", "prostate_mim.manifest", "prostate_mim.modality",
        "prostate_mim.datasets", "prostate_mim.leaks", "prostate_mim.phantom", "prostate_mim.store",
    ),
    "Masked pretraining": (
        "prostate_mim.masked", "prostate_mim.mim", "prostate_mim.mim.strategies", "prostate_mim.mim.targets",
        "prostate_mim.mim.decoders", "prostate_mim.nets", "prostate_mim.nets.inflation",
        "prostate_mim.initialisations", "prostate_mim.pretraining", "prostate_mim.contrastive", "prostate_mim.health",
        "prostate_mim.engine.settings", "prostate_mim.engine.amounts",
    ),
    "Lesions": (
        "prostate_mim.classifier", "prostate_mim.finetuning", "prostate_mim.metrics", "prostate_mim.probing",
        "prostate_mim.saliency", "prostate_mim.study",
    ),
    "Weights and deployment": (
        "prostate_mim.hub", "prostate_mim.hub.serving", "prostate_mim.deploy.session", "prostate_mim.deploy.runtime",
        "prostate_mim.deploy.verify", "prostate_mim.archive",
    ),
    "Looking": ("prostate_mim.looking", "prostate_mim.preview"),
}  # fmt: skip
# Modules without ``__all__`` of which only some names are meant for others.
PARTS: dict[str, tuple[str, ...]] = {
    "prostate_mim.create": ("FeatureExtractor", "PooledEncoder"),
    "prostate_mim.deploy.runtime": ("RuntimeOptions",),
    "prostate_mim.encoder": ("FeatureInfo",),
    "prostate_mim.engine.amounts": ("Augmentation",),
}
_FOR_TOOLS = ("# fmt:", "# noqa", "# type:")
MODULES = tuple(module for modules in SECTIONS.values() for module in modules)


@dataclass(frozen=True)
class Public:
    """A public name, and where it is written down: a class or function, or else a constant with its value."""

    module: str
    name: str
    home: str
    node: ast.ClassDef | ast.FunctionDef | None = None
    value: ast.expr | None = None
    annotation: ast.expr | None = None
    comment: str = ""

    @property
    def full(self) -> str:
        """As one imports it."""
        return f"{self.module}.{self.name}"

    @property
    def real(self) -> str:
        """As its own module calls it."""
        return f"{self.home}.{self.name}"


def names_of(module: str) -> tuple[str, ...]:
    """``__all__`` of a module, or its public classes and functions where it has none; not ``__version__``."""
    if module in PARTS:
        return PARTS[module]
    body = _parsed(module).body
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == ALL:
            return tuple(name for name in ast.literal_eval(node.value) if not name.startswith("_"))
    kinds = ast.ClassDef | ast.FunctionDef
    return tuple(node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_"))


@cache
def public(module: str) -> tuple[Public, ...]:
    """All names of a module, in the order of ``__all__``."""
    return tuple(_found(module, name, module, name) for name in names_of(module))


def everything() -> Iterator[Public]:
    """All names of all modules."""
    for module in MODULES:
        yield from public(module)


def _path(module: str) -> Path:
    inside = PACKAGE.joinpath(*module.split(".")[1:])
    return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _found(shown_module: str, shown_name: str, module: str, name: str) -> Public:
    """Follow imports to where a name is defined."""
    body = _parsed(module).body
    for place, node in enumerate(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Public(shown_module, shown_name, module, node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in (assigned := _assigned(node)):
            annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
            said = _comment(module, body, place)
            return Public(shown_module, shown_name, module, None, assigned[name], annotation, said)
    for inner in ast.walk(_parsed(module)):
        names = {one.asname or one.name: one.name for one in inner.names} if isinstance(inner, ast.ImportFrom) else {}
        if isinstance(inner, ast.ImportFrom) and name in names:
            return _found(shown_module, shown_name, str(inner.module), names[name])
    raise LookupError(f"{shown_module}.{shown_name} is in __all__, and {module} neither defines nor imports it")


def _assigned(node: ast.Assign | ast.AnnAssign) -> dict[str, ast.expr | None]:
    """Name -> value, also of ``A, B = 1, 2``."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    pairs = [(target, node.value)]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = list(zip(target.elts, node.value.elts, strict=True))
    return {one.id: value for one, value in pairs if isinstance(one, ast.Name)}


def _comment(module: str, body: list[ast.stmt], place: int) -> str:
    """What is said of a constant: the text below it, a comment behind it, or comments above it."""
    after = body[place + 1] if place + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return after.value.value.strip()
    lines = _path(module).read_text(encoding="utf-8").splitlines()
    node = body[place]
    behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()  # type: ignore[operator]
    if behind.startswith("# ") and not behind.startswith(_FOR_TOOLS):
        return behind.removeprefix("# ")
    above: list[str] = []
    number = node.lineno - 2
    while number >= 0 and lines[number].startswith("# ") and "----" not in lines[number]:
        above.insert(0, lines[number].removeprefix("# "))
        number -= 1
    return " ".join(above)
