"""Weights in the formats of others: MONAI's bundle and state dicts, nnU-Net's initial weights."""

from __future__ import annotations
