"""Which resolution of an encoder each parameter works at: for learning rates that fall towards the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.nets.encoder import Encoder
from prostate_mim.nets.modes import evaluating


@torch.no_grad()
def parameter_depths(encoder: Encoder) -> dict[str, int]:
    """Parameter name -> number of its resolution, 0 at the input.

    Found by running the encoder once on zeros: parameters that have worked before resolution 0 is there belong to 0,
    and so on. That holds for any way of writing a network. Parameters that never work belong to the last.
    """
    last = len(encoder.stage_info) - 1
    depths: dict[str, int] = {name: last for name, _ in encoder.named_parameters()}
    seen: set[str] = set()
    current = 0

    def between(resolution: int, features: Tensor) -> Tensor:
        nonlocal current
        current = resolution + 1
        return features

    def note(prefix: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            for name, _ in module.named_parameters(prefix, recurse=False):
                if name not in seen:
                    seen.add(name)
                    depths[name] = min(current, last)

        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in encoder.named_modules()]
    example = next(encoder.parameters())
    size = [2 * stride for stride in encoder.total_stride_zyx]
    try:
        with evaluating(encoder):
            encoder(torch.zeros(1, encoder.in_channels, *size, device=example.device, dtype=example.dtype), between)
    finally:
        for hook in hooks:
            hook.remove()
    return depths
