"""`engines.build.precision` and `engines.build.models.dropout`: what makes a training step cheap on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.build.models.dropout import Dropout
from engines.build.precision import half


@pytest.mark.parametrize(("able", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_matrices_are_multiplied_in_half_where_the_cpu_is_made_for_it(
    *, able: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other CPUs would take longer for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able, "avx2": True})
    layer = nn.Linear(8, 4)
    with half(torch.device("cpu")):
        found = layer(torch.ones(2, 8))
    assert found.dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("p", [0.15, 0.3, 0.4])
def test_dropout_leaves_the_mean_and_drops_its_share(p: float) -> None:
    """What is kept is larger by as much as is lost."""
    torch.manual_seed(0)
    values = torch.full((300, 333), 2.0)  # not a multiple of eight
    found = Dropout(p)(values)
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.01)
    assert float(found.mean()) == pytest.approx(2.0, rel=0.01)
    assert len(found.unique()) == 2


def test_dropout_draws_by_torchs_seed_and_passes_gradients_on() -> None:
    """The same seed drops the same values; what was dropped has no gradient."""
    values = torch.ones(7, 5, requires_grad=True)
    torch.manual_seed(3)
    found = Dropout(0.5)(values)
    found.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, found.detach())
    torch.manual_seed(3)
    torch.testing.assert_close(Dropout(0.5)(values.detach()), found.detach())


@pytest.mark.parametrize("layer", [Dropout(0.4).eval(), Dropout(0.0)])
def test_dropout_that_does_not_train_changes_nothing(layer: Dropout) -> None:
    """Nor does one of probability 0."""
    values = torch.randn(5, 5)
    assert torch.equal(layer(values), values)
