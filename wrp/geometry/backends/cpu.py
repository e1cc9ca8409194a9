"""Fast routes on the CPU: numpy and OpenCV give the results of torch in a fraction of the time.

Maps of a frame are small for torch's threads, which go on waiting for more work on a core that flow estimation needs;
and each map that torch makes takes new pages from the system, which costs more than the work, where numpy uses again
what it has just freed. Measured by experiments/benchmarks/motion.py.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import chain
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.structures import IGNORE_INDEX

_log = logging.getLogger(__name__)

# OpenCV samples three and four interleaved channels faster than two; two are rounded to 1/32 pixel in OpenCV 5.
_CHANNELS = 4

# Elements that torch works on in the calling thread.
_PIECE = 2**15 - 1
_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.bool: np.bool_}


def serves(*tensors: Tensor) -> bool:
    """Whether numpy and OpenCV can do the work: on the CPU, without gradients, outside of compiled code."""
    return (
        not torch.compiler.is_compiling()
        and all(
            tensor.device.type == "cpu"
            and not (torch.is_grad_enabled() and tensor.requires_grad)
            # OpenCV counts rows and columns with 16 bits
            and max(tensor.shape[-2:], default=0) < 2**15 - 1
            for tensor in tensors
        )
    )


def workers(name: str, count: int) -> ThreadPoolExecutor:
    """So many threads of a name, kept for the next time."""
    return _workers(name, count, os.getpid())


@lru_cache(maxsize=8)
def _workers(name: str, count: int, process: int) -> ThreadPoolExecutor:
    # The threads of a pool do not come along into a forked process.
    return ThreadPoolExecutor(count, name)


def backend(*tensors: Tensor) -> tuple[Any, ...]:
    """The module, numpy or torch, that a formula written for both should use, and the tensors as its arrays."""
    return (np, *(tensor.numpy() for tensor in tensors)) if serves(*tensors) else (torch, *tensors)


def tensor(array: Any) -> Tensor:
    """The result of a formula as a tensor, whichever module it came from."""
    return torch.from_numpy(np.asarray(array)) if isinstance(array, (np.ndarray, np.generic)) else array


def quiet(module: Any) -> AbstractContextManager[Any]:
    """Numbers that are not finite without a warning, in a formula for numpy or torch; torch has none."""
    return np.errstate(invalid="ignore", over="ignore") if module is np else nullcontext()


def add(first: Tensor, fresh: Tensor) -> Tensor:
    """The sum of two tensors; it takes the memory of the second one, where numpy makes it."""
    xp, one, other = backend(first, fresh)
    with quiet(xp):
        return tensor(np.add(one, other, other) if xp is np else one + other)


def absolute_difference(first: Tensor, second: Tensor) -> Tensor:
    """``|first - second|`` of two tensors of one shape, float32."""
    if not serves(first, second):
        return (first - second).abs()
    one, other = (values.contiguous().view(-1, values.shape[-1]).numpy() for values in (first, second))
    return torch.from_numpy(cv2.absdiff(one, other)).view(first.shape)


def either(first: Tensor, second: Tensor) -> Tensor:
    """Where one of two masks is set."""
    _, one, other = backend(first, second)
    return tensor(one | other)


def hide(values: Tensor, known: Tensor, value: int = IGNORE_INDEX) -> Tensor:
    """Labels, or other values, replaced where they are not known."""
    if not serves(values, known):
        return values.masked_fill(~known, value)
    result = values.numpy().copy()
    np.putmask(result, ~known.numpy(), value)
    return torch.from_numpy(result)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (S, …) of one dtype one behind the other."""
    if serves(*tensors):
        return torch.from_numpy(np.concatenate([tensor.numpy() for tensor in tensors]))
    # Autocast to bfloat16 refuses to join float16.
    with torch.autocast(tensors[0].device.type, enabled=False):
        return torch.cat(list(tensors))


def convert(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating-point values in another precision."""
    if not serves(values):
        return values.to(dtype)
    result = torch.from_numpy(np.empty(values.shape, _NUMPY[dtype]))
    # numpy is slow at float16; torch is fast, and uses one thread, on pieces as small as these.
    pieces = zip(values.reshape(-1).split(_PIECE), result.view(-1).split(_PIECE), strict=True)
    for piece, out in pieces:
        out.copy_(piece)
    return result


def look_up(table: Tensor, codes: Tensor) -> Tensor:
    """``table[codes]`` for a table of at most 256 entries and ``codes`` (H, W) uint8."""
    if not serves(codes):
        return table.to(codes.device)[codes.long()]
    whole = np.zeros(256, table.numpy().dtype)
    whole[: len(table)] = table.numpy()
    return torch.from_numpy(cv2.LUT(codes.numpy(), whole))


def reused(*shape: int, dtype: Any = np.float32) -> Tensor:
    """Memory of a shape, not initialised, from numpy."""
    return torch.from_numpy(np.empty(shape, dtype))


def zeros(shape: Sequence[int], dtype: torch.dtype, beside: Tensor) -> Tensor:
    """Zeros on the device of another tensor."""
    if not serves(beside):
        return torch.zeros(*shape, dtype=dtype, device=beside.device)
    result = reused(*shape, dtype=_NUMPY[dtype])
    result.numpy().fill(0)
    return result


# The C library gives freed memory back to the system at once, and the pages of the next map come one by one from there,
# which costs more than the work on them. It keeps what is smaller than a block that was once freed: this one, unused.
_block = np.empty(2**25 - 2**16, np.uint8)
del _block


class _Buffer(threading.local):
    """Memory of each thread that is used again: fresh pages for every frame cost as much as the work itself."""

    def __init__(self) -> None:
        self.array = np.empty((0, 0, _CHANNELS), np.float32)
        self.unwanted = np.empty((0, 0), np.float32)

    def get(self, height: int, width: int) -> np.ndarray:
        if self.array.shape[:2] != (height, width):
            self.array = np.empty((height, width, _CHANNELS), np.float32)
            self.unwanted = np.empty((height, width), np.float32)
        return self.array


_sampled = _Buffer()


class Images:
    """Maps (B, C, H, W) each, as OpenCV samples them; the same memory where they have one or two channels."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.channels = [value.shape[1] for value in values]
        planes = ([*chain(*(value[number].float().numpy() for value in values))] for number in range(len(values[0])))
        self.images = [_images(one) for one in planes]

    def along(self, flow: Tensor) -> list[Tensor]:
        """Bilinear samples (B, C, h, w) float32 of each map where a flow (B, 2, h, w) leads, at most to the border."""
        results = [reused(len(flow), channels, *flow.shape[-2:]) for channels in self.channels]
        for number, (x, y) in enumerate(flow.float().numpy()):
            outs = [plane for result in results for plane in result[number].numpy()]
            for image in self.images[number]:
                count = 1 if image.ndim == 2 else _CHANNELS
                wanted, outs = outs[:count], outs[count:]
                if count == 1:
                    _remap(image, x, y, wanted[0])
                    continue
                sampled = _sampled.get(*x.shape)
                _remap(image, x, y, sampled)
                # One pass over the interleaved samples, straight into the results.
                cv2.split(sampled, wanted + [_sampled.unwanted] * (_CHANNELS - len(wanted)))
        return results


def _images(planes: list[np.ndarray]) -> list[np.ndarray]:
    """Planes side by side by fours, as OpenCV wants them; one or two that are left take less time by themselves."""
    groups = [planes[start : start + _CHANNELS] for start in range(0, len(planes), _CHANNELS)]
    images: list[np.ndarray] = []
    for group in groups:
        images += group if len(group) < 3 else [cv2.merge(group + group[:1] * (_CHANNELS - len(group)))]
    return images


def _remap(image: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    cv2.remap(image, x, y, cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP, out, cv2.BORDER_REPLICATE)


def remap_labels(values: Tensor, flow: Tensor, outside: int) -> Tensor:
    """Nearest samples where a flow leads.

    Args:
        values: (B, H, W) uint8 or bool.
        flow: (B, 2, h, w) float32 in pixels, finite.
        outside: Result out of the frame.

    Returns:
        (B, h, w), dtype of ``values``.
    """
    result = np.empty((len(values), *flow.shape[-2:]), np.uint8)
    # OpenCV rounds halves to even numbers, which would double some pixels of a map that moves by half a pixel; the
    # smallest step at the far end of the frame makes it round them up.
    up = np.spacing(np.float32(max(*values.shape[-2:], *flow.shape[-2:])))
    for value, (x, y), out in zip(values.view(torch.uint8).numpy(), flow.numpy() + up, result, strict=True):
        value, how = np.ascontiguousarray(value), cv2.INTER_NEAREST | cv2.WARP_RELATIVE_MAP
        cv2.remap(value, x, y, how, out, cv2.BORDER_CONSTANT, outside)
    return torch.from_numpy(result).view(values.dtype)


@lru_cache(maxsize=1)
def remap_is_exact() -> bool:
    """Whether this OpenCV interpolates at the very coordinates; releases before 5 round them to 1/32 pixel."""
    if not hasattr(cv2, "WARP_RELATIVE_MAP"):
        return False
    places, column = np.linspace(0, 63, 256, dtype=np.float32).reshape(1, -1), np.arange(256, dtype=np.float32)
    ramp, found = np.arange(64, dtype=np.float32).reshape(1, 64), np.empty((1, 256), np.float32)
    found_by_fours = np.empty((1, 256, _CHANNELS), np.float32)
    _remap(ramp, places - column, np.zeros_like(places), found)
    _remap(np.repeat(ramp[..., None], _CHANNELS, 2), places - column, np.zeros_like(places), found_by_fours)
    return bool(max(np.abs(found - places).max(), np.abs(found_by_fours - places[..., None]).max()) < 1e-4)


def filter_rows_and_columns(values: Tensor, kernel: Sequence[float]) -> Tensor:
    """Each map of ``values`` (C, H, W) float32 filtered with a kernel along both axes; outside of the frame is zero."""
    result, weights = reused(*values.shape), np.array(kernel, np.float32)
    for value, out in zip(values.numpy(), result.numpy(), strict=True):
        cv2.sepFilter2D(value, -1, weights, weights, out, borderType=cv2.BORDER_CONSTANT)
    return result


def strongest(labels: Tensor, weights: Tensor, kernel: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The class with most votes, which are filtered with a kernel along both axes, without a map for each class.

    Args:
        labels: (S, H, W) uint8, 255 where there is none.
        weights: (S, H, W) float32, the votes of each.
        kernel: Outside of the frame are no votes.

    Returns:
        Class (H, W) uint8, the lowest of equals; its votes and those of all classes, (H, W) float32.
    """
    weight, margin = np.array(kernel, np.float32), len(kernel) // 2
    said, shares = labels.numpy(), weights.numpy()
    chosen, most = (np.zeros(labels.shape[1:], dtype) for dtype in (np.uint8, np.float32))
    counts = cv2.calcHist([said.reshape(-1, said.shape[2])], [0], None, [256], [0, 256])
    # Plain numbers: compared with one of numpy's, which has 64 bits, bytes would be widened first.
    for number in np.flatnonzero(counts[:IGNORE_INDEX]).tolist():
        mine = said == number
        left, top, width, height = cv2.boundingRect(np.bitwise_or.reduce(mine).view(np.uint8))
        # What the filter spreads around the class; nearly all classes are in a small part of the frame.
        rows = slice(max(top - margin, 0), top + height + margin)
        columns = slice(max(left - margin, 0), left + width + margin)
        votes = _filtered_sum(shares[:, rows, columns], mine[:, rows, columns], weight)
        class_here, most_here = chosen[rows, columns], most[rows, columns]
        # Classes come in ascending order, so that the maximum overwrites; many times as fast as a mask.
        np.maximum(class_here, (votes > most_here) * np.uint8(number), out=class_here)
        np.maximum(most_here, votes, out=most_here)
    total = _filtered_sum(shares, said != IGNORE_INDEX, weight)
    return torch.from_numpy(chosen), torch.from_numpy(most), torch.from_numpy(total)


def _filtered_sum(values: np.ndarray, masks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum over S of ``values`` (S, H, W) float32 where ``masks`` are set, filtered along both axes."""
    total = np.zeros(values.shape[1:], np.float32)
    for value, mask in zip(values, masks.view(np.uint8), strict=True):
        cv2.accumulate(value, total, mask)
    return cv2.sepFilter2D(total, -1, weight, weight, borderType=cv2.BORDER_CONSTANT)


def box_sums(values: Tensor, window: int) -> Tensor:
    """Sums of ``values`` (B, H, W) float32 over squares of odd side ``window``; outside of the frame is zero."""
    result = reused(*values.shape)
    for value, out in zip(values, result, strict=True):
        cv2.boxFilter(value.numpy(), -1, (window, window), out.numpy(), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return result
