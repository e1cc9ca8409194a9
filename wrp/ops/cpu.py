"""Fast routes on the CPU: numpy and OpenCV give the results of torch in a fraction of the time.

Maps of a frame are small for torch's threads, and each one that torch makes takes new pages from the system, which
costs more than the work; numpy uses again what it has just freed. Measured by experiments/benchmarks/motion.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

# OpenCV samples three and four interleaved channels faster than two; two are rounded to 1/32 pixel in OpenCV 5.
_CHANNELS = 4


class _Buffers(threading.local):
    """Memory that is used again: fresh pages for every frame cost as much as the work itself."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def get(self, name: str, height: int, width: int) -> np.ndarray:
        shape = (height, width, _CHANNELS)
        if name not in self.kept or self.kept[name].shape != shape:
            self.kept[name] = np.empty(shape, np.float32)
        return self.kept[name]


_buffers = _Buffers()


def serves(*tensors: Tensor) -> bool:
    """Whether numpy and OpenCV can do the work: on the CPU, without gradients, outside of compiled code."""
    return (
        not torch.compiler.is_compiling()
        and all(
            tensor.device.type == "cpu"
            and not (torch.is_grad_enabled() and tensor.requires_grad)
            # OpenCV counts rows and columns with 16 bits
            and max(tensor.shape[-2:]) < 2**15
            for tensor in tensors
        )
    )


def backend(*tensors: Tensor) -> tuple[Any, ...]:
    """The module, numpy or torch, that a formula written for both should use, and the tensors as its arrays."""
    return (np, *(tensor.numpy() for tensor in tensors)) if serves(*tensors) else (torch, *tensors)


def tensor(array: Any) -> Tensor:
    """The result of a formula as a tensor, whichever module it came from."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def add(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two tensors."""
    _, one, other = backend(first, second)
    with np.errstate(invalid="ignore", over="ignore"):
        return tensor(one + other)


def reused(*shape: int, dtype: Any = np.float32) -> Tensor:
    """Memory of a shape, not initialised, from numpy."""
    return torch.from_numpy(np.empty(shape, dtype))


def remap_bilinear(values: Sequence[Tensor], coords: Tensor) -> list[Tensor]:
    """Bilinear samples of maps (B, C, H, W) each at ``coords`` (B, 2, h, w) in the frame: (B, C, h, w) float32 each."""
    results = [reused(*value.shape[:2], *coords.shape[-2:]) for value in values]
    height, width = values[0].shape[-2:]
    source, target = _buffers.get("source", height, width), _buffers.get("target", *coords.shape[-2:])
    for number, (x, y) in enumerate(coords.float().numpy()):
        images = [plane for value in values for plane in value[number].float().numpy()]
        outs = [plane for result in results for plane in result[number].numpy()]
        for start in range(0, len(images), _CHANNELS):
            planes, wanted = images[start : start + _CHANNELS], outs[start : start + _CHANNELS]
            cv2.merge(planes + planes[:1] * (_CHANNELS - len(planes)), source)
            _remap(source, x, y, target)
            # One pass over the interleaved samples, straight into the results.
            cv2.mixChannels([target], wanted, [i for channel in range(len(wanted)) for i in (channel, channel)])
    return results


def _remap(image: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    cv2.remap(image, x, y, cv2.INTER_LINEAR, out, cv2.BORDER_REPLICATE)


@lru_cache(maxsize=1)
def remap_is_exact() -> bool:
    """Whether this OpenCV interpolates at the very coordinates; releases before 5 round them to 1/32 pixel."""
    ramp = np.repeat(np.arange(64, dtype=np.float32).reshape(1, 64, 1), _CHANNELS, 2)
    x = np.linspace(0, 63, 256, dtype=np.float32).reshape(1, -1)
    found = np.empty((1, 256, _CHANNELS), np.float32)
    _remap(ramp, x, np.zeros_like(x), found)
    return bool(np.abs(found[0, :, 0] - x[0]).max() < 1e-4)


def box_sums(values: Tensor, window: int) -> Tensor:
    """Sums of ``values`` (B, H, W) float32 over squares of odd side ``window``; outside of the frame is zero."""
    result = reused(*values.shape)
    for value, out in zip(values, result, strict=True):
        cv2.boxFilter(value.numpy(), -1, (window, window), out.numpy(), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return result
