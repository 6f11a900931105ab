"""Dropout that draws eight values from each 64-bit random number: on a CPU torch's own takes far longer.

`benchmarks/training_step.py` says how much of a training step that is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 256  # of a random byte


class Dropout(nn.Dropout):
    """As `torch.nn.Dropout`, its `p` rounded to 1 / 256 on a CPU; where it does not train, or elsewhere, the same."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Return the values (...), each set to 0 with probability p, the others larger by 1 / (1 - p)."""
        dropped = round(_LEVELS * self.p)
        if not self.training or not dropped or input.device.type != "cpu":
            return super().forward(input)
        count = input.numel()
        drawn = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.uint8)[:count].view(input.shape) >= dropped
        return input * kept * (_LEVELS / (_LEVELS - dropped))
