"""Several processes, one run: which device and rank, sums over ranks, whole states, norms over the global batch.

How many processes there are, and whether parameters are sharded, is said by the launcher (``torchrun`` or
``accelerate launch``), never by the configuration: the same configuration gives the same numbers on any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from prostate_mim.engine.launched import launched_ranks
from prostate_mim.errors import BackendError, IntegrityError, UsageError
from prostate_mim.masked.over_ranks import over_ranks

Model = TypeVar("Model", bound=nn.Module)
_WHOLE = StateDictOptions(full_state_dict=True)


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where it works, else the CPU.

    Raises:
        BackendError: CUDA was asked for and there is none.
        UsageError: unknown device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r} is unknown; choose auto, cpu or cuda")
    usable = torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise BackendError("device cuda was asked for, but torch finds no usable CUDA GPU; use --device cpu")
    return torch.device("cuda" if usable and device != "cpu" else "cpu")


def make_accelerator(device: str) -> Accelerator:
    """An accelerator on the asked-for device. Precision is the loop's own: accelerate fixes it once per process.

    Raises:
        BackendError: CUDA was asked for and there is none, or this process has already settled on another device.
        UsageError: unknown device.
    """
    pick_device(device)
    try:
        return Accelerator(cpu=device == "cpu")
    except ValueError as error:
        raise BackendError(f"device {device}: this process has trained on another one; start a new process") from error


def is_sharded() -> bool:
    """Whether parameters are divided among ranks (FSDP): asked for as ``accelerate launch`` does, by its variable."""
    return launched_ranks() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def distribute(
    accelerator: Accelerator, model: nn.Module, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model on its device, wrapped or sharded for the ranks there are, and its optimiser.

    Sharding is torch's own (``fully_shard``), on any device: accelerate shards on accelerators alone. The model is one
    unit, because what lies between its stages are masked features, which only it can unpack.
    """
    if not is_sharded():
        wrapped, optimizer = accelerator.prepare(model, make_optimizer(model))
        return wrapped, optimizer
    kind = accelerator.device.type
    fully_shard(model.to(accelerator.device), mesh=init_device_mesh(kind, (accelerator.num_processes,)))
    return model, make_optimizer(model)


def unwrapped(model: nn.Module, kind: type[Model]) -> Model:
    """The model of a known class within whatever distributes it."""
    bare = getattr(model, "module", model)
    if not isinstance(bare, kind):  # pragma: no cover - train wraps what it was given
        raise TypeError(type(bare))
    return bare


@contextmanager
def unsynchronised(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Gradients of backward passes within stay on their ranks until the first pass outside."""
    if not isinstance(model, FSDPModule):
        with accelerator.no_sync(model):
            yield
        return
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def synchronise_norms(model: Model) -> Model:
    """Batch norms over the global batch instead of each process's share, in place; names and parameters stay."""
    if launched_ranks() > 1:
        over_ranks(model)
    return model


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum over ranks."""
    summed: Tensor = accelerator.reduce(value, "sum") if accelerator.num_processes > 1 else value
    return summed


def anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any rank says so. Every rank must ask."""
    return bool(total(accelerator, torch.tensor(float(flag), device=accelerator.device)) > 0)


def gathered(accelerator: Accelerator, values: list[int]) -> list[int]:
    """The lists of all ranks, one after another; no value is negative. Every rank must ask."""
    if accelerator.num_processes == 1:
        return values
    own = torch.tensor([*values, -1], device=accelerator.device)  # nothing at all cannot be sent
    padded = accelerator.pad_across_processes(own, dim=0, pad_index=-1)
    return [int(value) for value in accelerator.gather(padded) if value >= 0]


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Sharded parameters are there as a whole within; nothing happens to a model that is not sharded."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``model.NAME`` and ``optimizer.NAME.ENTRY`` on the CPU, whole. Every rank must ask."""
    weights = whole_weights(model)
    saved: Any = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    tensors = {f"model.{name}": value for name, value in weights.items()}
    for name in (name for group in saved["param_groups"] for name in group["params"]):
        state = saved["state"].get(name) or _untouched(weights[name])
        tensors.update({f"optimizer.{name}.{entry}": value.cpu() for entry, value in state.items()})
    return tensors


def _untouched(parameter: Tensor) -> dict[str, Tensor]:
    """AdamW's entries of a parameter that has had no gradient yet, as it will begin with them."""
    return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the model's own names, on the CPU. Every rank must ask."""
    found: Any = get_model_state_dict(model, options=_WHOLE)
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def put_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], entries: Mapping[str, Tensor]
) -> None:
    """The reverse of ``whole_state``: ``NAME`` and ``NAME.ENTRY`` -> the model and its optimiser, sharded or not.

    Raises:
        IntegrityError: a name is missing or unknown.
    """
    options = StateDictOptions(full_state_dict=True, strict=True)
    groups: list[dict[str, Any]] = get_optimizer_state_dict(model, optimizer, options=_WHOLE)["param_groups"]  # type: ignore[assignment]
    trained = [name for group in groups for name in group["params"]]
    _check_names(weights, whole_weights(model))
    _check_names(entries, [f"{name}.{entry}" for name in trained for entry in ("step", "exp_avg", "exp_avg_sq")])
    set_model_state_dict(model, dict(weights), options=options)
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in entries.items():
        name, entry = key.rsplit(".", 1)
        state.setdefault(name, {})[entry] = value
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=options)  # type: ignore[dict-item]


def _check_names(found: Collection[str], expected: Collection[str]) -> None:
    """Torch takes an empty or half-filled state for a complete one."""
    wrong = sorted(set(found) ^ set(expected))
    if wrong:
        what = "lacks" if wrong[0] in expected else "has an unknown"
        raise IntegrityError(
            f"the checkpoint {what} {wrong[0]} ({len(wrong)} names differ from the model's): it is of other code; go "
            "on with the code that wrote it, or choose a new --out"
        )
