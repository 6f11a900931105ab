"""The weights that training goes on from, as a file of the release: `weights.safetensors`.

An exported graph is for inference: norms are folded into convolutions, matrices transposed, equal tensors merged. What
was trained therefore stands beside it, of the families that `engines.build.restore` brings back; a compact model's
backbones come with their packages and are left out. No scorer reads the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engines.build.models.compact import CompactFusion
from engines.build.models.small import SmallFusion
from engines.errors import ReleaseCorrupt, ReleaseNotRestorable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

_FROZEN: Final = ("backbone.", "text_backbone.", "palette.")
"""Parts of a compact model that are never trained."""


def save(model: nn.Module, path: Path) -> bool:
    """Write what was trained; return False for a family that is not gone on with."""
    if not isinstance(model, SmallFusion | CompactFusion):
        return False
    save_file({name: value.detach().cpu().contiguous() for name, value in trained(model).items()}, path)
    return True


def load(model: nn.Module, path: Path) -> None:
    """Give the model what `save` has written.

    Raises:
        ReleaseCorrupt: the file is not of a model of these sizes.
        ReleaseNotRestorable: it is of a model as another version of this package makes them.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ReleaseCorrupt(f"{path}: {error}") from error
    wanted = trained(model)
    if unlike := state.keys() ^ wanted.keys():
        raise ReleaseNotRestorable(
            f"{path} is of another version of this package ({', '.join(sorted(unlike)[:3])} stand in one of the two "
            "only): it runs, and what goes on learning is to be trained anew, with `streamer adapt`"
        )
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ReleaseCorrupt(f"{path} holds the weights of another model than its manifest describes")
    model.load_state_dict(state, strict=False)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of what training changes, by name."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(_FROZEN)}
