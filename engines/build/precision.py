"""In which numbers a compact model's matrices are multiplied while it trains."""

from __future__ import annotations

import torch

_FAST = ("avx512_bf16", "amx_bf16")
"""A CPU that has one of these multiplies bfloat16 much faster (`benchmarks/training_step.py`); others pretend to."""


def half(device: torch.device) -> torch.autocast:
    """Return the context of a training step: matrices are multiplied in bfloat16 where this CPU is made for it.

    Weights, gradients, attention and losses stay in float32. On a GPU all does: nothing else was measured there.

    Source: Micikevicius et al. 2018, "Mixed Precision Training"; Kalamkar et al. 2019, "A Study of BFLOAT16".
    """
    able = torch.cpu.get_capabilities()
    enabled = device.type == "cpu" and any(able.get(name) for name in _FAST)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
