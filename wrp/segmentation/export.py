"""Export a segmentation network to ONNX, for programs without PyTorch (extra ``onnx``)."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wrp.errors import WrpError, in_short
from wrp.io.checkpoints import CLASSES_KEY, classes_as_plain
from wrp.segmentation.labeler import Labeler

IMAGES, PROBABILITIES = "images", "probabilities"
"""Names of the input and the output of an exported network."""

# The version of ONNX's operators, which many programs know.
OPSET = 17

# Sizes (B, H, W) with which a network is traced, and with others, whether the file computes the same. No two sides are
# alike and none is a multiple of a stride, which would hide that a file fits only such images.
TRACED, TRIED = (2, 90, 130), ((1, 131, 75), (3, 64, 203))

MOST_DIFFERENCE = 1e-3
"""Largest difference between a probability of the file and of the network."""


class Probabilities(nn.Module):
    """A network whose output is probabilities rather than logits, as it is exported.

    Args:
        net: Maps images (B, 3, H, W) float32 in [0, 1] to logits (B, C, H, W).

    Example:
        >>> Probabilities(nn.Conv2d(3, 2, 1))(torch.zeros(1, 3, 4, 4)).sum(1).unique().round().tolist()
        [1.0]
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Compute probabilities (B, C, H, W) float32 of images (B, 3, H, W) float32 in [0, 1]."""
        logits: Tensor = self.net(images)
        return logits.float().softmax(1)


def export_onnx(labeler: Labeler, path: Path) -> None:
    """Write a network as ONNX, for images of any size in batches of any number, and check what was written.

    The input ``images`` is (B, 3, H, W) float32 RGB in [0, 1], i.e. 8-bit values divided by 255; the network normalises
    them itself. The output ``probabilities`` is (B, C, H, W) float32, of the whole image once: the windows, scales and
    mirror images of the checkpoint's ``inference`` are not in the file. Its metadata hold the classes: ``wrp_classes``,
    JSON with ``ids``, ``names`` and ``colors``.

    Args:
        labeler: The network with its classes, see :func:`wrp.load`; it is left on the CPU.
        path: The file.

    Raises:
        WrpError: If a package of the extra ``onnx`` is missing, or the network cannot be exported, or not for all
            sizes.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise WrpError(f"export to ONNX needs {error.name}: pip install 'wrp[onnx]'") from error
    net = Probabilities(labeler.to("cpu").module.inference_model).eval()
    written = io.BytesIO()
    names: dict[str, Any] = {"input_names": [IMAGES], "output_names": [PROBABILITIES]}
    any_size = {0: "batch", 2: "height", 3: "width"}
    try:
        with torch.no_grad(), _quiet():
            # By tracing: the exporter that follows the symbols of sizes (dynamo=True) needs minutes, and much more, for
            # networks that resize and pad what they see.
            torch.onnx.export(
                net,
                (_random(TRACED),),
                written,  # type: ignore[arg-type]  # tracing takes a file in memory, too
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes={IMAGES: any_size, PROBABILITIES: any_size},
                **names,
            )
        model = onnx.load_from_string(written.getvalue())
        onnx.helper.set_model_props(model, {CLASSES_KEY: json.dumps(classes_as_plain(labeler.label_map))})
        content = model.SerializeToString()
        runner = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        differences = [_difference(net, runner, _random(size)) for size in TRIED]
    except Exception as error:  # the exporter's and the runtime's own errors, of many kinds
        raise WrpError(f"the network cannot be exported to ONNX for images of all sizes: {in_short(error)}") from error
    if max(differences) > MOST_DIFFERENCE:
        raise WrpError(
            f"the network cannot be exported to ONNX: its probabilities and those of the file differ by "
            f"{max(differences):.2g}, at most {MOST_DIFFERENCE} was expected"
        )
    path.write_bytes(content)


def _random(size: tuple[int, int, int]) -> Tensor:
    return torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _difference(net: nn.Module, runner: Any, images: Tensor) -> float:
    """Return the largest difference between the probabilities of a network and of its file."""
    [found] = runner.run([PROBABILITIES], {IMAGES: images.numpy()})
    return float((net(images) - torch.from_numpy(found)).abs().max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of tracing: what it takes for the same in all images is checked afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
