"""2D networks and their weights in 3D: kernels, parts, whole networks, and state dicts for registered encoders."""

from __future__ import annotations

from prostate_mim.nets.inflation.kernels import HOWS, inflate_convolution, sum_colours
from prostate_mim.nets.inflation.network import constant_depth_difference, inflate
from prostate_mim.nets.inflation.parts import DepthRule, convolution, keep
from prostate_mim.nets.inflation.state import LAYOUTS, Layout, inflate_state

__all__ = [
    "HOWS",
    "LAYOUTS",
    "DepthRule",
    "Layout",
    "constant_depth_difference",
    "convolution",
    "inflate",
    "inflate_convolution",
    "inflate_state",
    "keep",
    "sum_colours",
]
