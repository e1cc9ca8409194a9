"""Fast routes on the CPU: numpy and OpenCV compute what torch computes, in a fraction of the time.

The maps of one frame are small for torch's threads, which keep a core busy waiting for more work while flow estimation
needs it. Each map that torch makes also takes new pages from the system, which costs more than the work itself, whereas
numpy uses memory again that it has just freed. Measured by experiments/benchmarks/motion.py.
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

# OpenCV samples three or four interleaved channels faster than two, and OpenCV 5 rounds coordinates to 1/32 pixel for
# two.
_CHANNELS = 4

# Most elements on which torch works in the calling thread alone.
_PIECE = 2**15 - 1
_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.bool: np.bool_}


def serves(*tensors: Tensor) -> bool:
    """Tell whether numpy and OpenCV can do the work: on the CPU, without gradients, outside of compiled code.

    Example:
        >>> serves(torch.zeros(2, 3)), serves(torch.zeros(2, 3, requires_grad=True))
        (True, False)
    """
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
    """Return a pool of ``count`` threads with a name; it is kept and returned again for the same name and count.

    Example:
        >>> workers("wrp-example", 2) is workers("wrp-example", 2)
        True
    """
    return _workers(name, count, os.getpid())


@lru_cache(maxsize=8)
def _workers(name: str, count: int, process: int) -> ThreadPoolExecutor:
    # A forked process does not have the threads of its parent's pools.
    return ThreadPoolExecutor(count, name)


def backend(*tensors: Tensor) -> tuple[Any, ...]:
    """Choose numpy or torch for a formula that is written for both.

    Args:
        tensors: The arguments of the formula.

    Returns:
        Where :func:`serves` holds, numpy and the tensors as arrays, which share their memory; else torch and the
        tensors.

    Example:
        >>> xp, values = backend(torch.tensor([1.0, 4.0]))
        >>> xp.__name__, xp.sqrt(values).tolist()
        ('numpy', [1.0, 2.0])
    """
    return (np, *(tensor.numpy() for tensor in tensors)) if serves(*tensors) else (torch, *tensors)


def tensor(array: Any) -> Tensor:
    """Return the result of a formula as a tensor, whether numpy or torch computed it.

    Example:
        >>> tensor(np.array([1.0, 2.0]))
        tensor([1., 2.], dtype=torch.float64)
    """
    return torch.from_numpy(np.asarray(array)) if isinstance(array, (np.ndarray, np.generic)) else array


def quiet(module: Any) -> AbstractContextManager[Any]:
    """Return a context in which numpy does not warn of values that are not finite; torch never does.

    Args:
        module: numpy or torch, see :func:`backend`.

    Example:
        >>> with quiet(np):
        ...     (np.array([np.inf]) - np.inf).tolist()
        [nan]
    """
    return np.errstate(invalid="ignore", over="ignore") if module is np else nullcontext()


def add(first: Tensor, fresh: Tensor) -> Tensor:
    """Add two tensors.

    Args:
        first: Any shape.
        fresh: The shape and dtype of the sum. Where numpy does the work, the sum takes the memory of this tensor, so
            nothing else may use it.

    Example:
        >>> add(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
        tensor([11., 22.])
    """
    xp, one, other = backend(first, fresh)
    with quiet(xp):
        return tensor(np.add(one, other, other) if xp is np else one + other)


def absolute_difference(first: Tensor, second: Tensor) -> Tensor:
    """Return ``|first - second|`` of two tensors of one shape, float32.

    Example:
        >>> absolute_difference(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[2., 1.]])
    """
    if not serves(first, second):
        return (first - second).abs()
    one, other = (values.contiguous().view(-1, values.shape[-1]).numpy() for values in (first, second))
    return torch.from_numpy(cv2.absdiff(one, other)).view(first.shape)


def either(first: Tensor, second: Tensor) -> Tensor:
    """Return where at least one of two masks, bool of one shape, is set.

    Example:
        >>> either(torch.tensor([True, False]), torch.tensor([False, False]))
        tensor([ True, False])
    """
    _, one, other = backend(first, second)
    return tensor(one | other)


def hide(values: Tensor, known: Tensor, value: int = IGNORE_INDEX) -> Tensor:
    """Return a copy of labels, or of other values, with another value where they are not known.

    Args:
        values: Any shape and dtype.
        known: The same shape, bool.
        value: Written where ``known`` is not set.

    Example:
        >>> hide(torch.tensor([3, 4], dtype=torch.uint8), torch.tensor([True, False]))
        tensor([  3, 255], dtype=torch.uint8)
    """
    if not serves(values, known):
        return values.masked_fill(~known, value)
    result = values.numpy().copy()
    np.putmask(result, ~known.numpy(), value)
    return torch.from_numpy(result)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors (S, …) of one dtype along their first axis.

    Example:
        >>> join([torch.zeros(1, 2), torch.ones(2, 2)]).shape
        torch.Size([3, 2])
    """
    if serves(*tensors):
        return torch.from_numpy(np.concatenate([tensor.numpy() for tensor in tensors]))
    # Autocast to bfloat16 refuses to join float16.
    with torch.autocast(tensors[0].device.type, enabled=False):
        return torch.cat(list(tensors))


def convert(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert floating-point values of any shape to another precision, float16 or float32.

    Example:
        >>> convert(torch.tensor([0.1]), torch.float16)
        tensor([0.1000], dtype=torch.float16)
    """
    if not serves(values):
        return values.to(dtype)
    result = torch.from_numpy(np.empty(values.shape, _NUMPY[dtype]))
    # numpy is slow at float16; torch is fast, and uses one thread, on pieces as small as these.
    pieces = zip(values.reshape(-1).split(_PIECE), result.view(-1).split(_PIECE), strict=True)
    for piece, out in pieces:
        out.copy_(piece)
    return result


def look_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return ``table[codes]`` for a table of at most 256 entries and ``codes`` (H, W) uint8.

    Example:
        >>> look_up(torch.tensor([0.5, 2.0]), torch.tensor([[1, 0]], dtype=torch.uint8))
        tensor([[2.0000, 0.5000]])
    """
    if not serves(codes):
        return table.to(codes.device, non_blocking=True)[codes.long()]
    whole = np.zeros(256, table.numpy().dtype)
    whole[: len(table)] = table.numpy()
    return torch.from_numpy(cv2.LUT(codes.numpy(), whole))


def reused(*shape: int, dtype: Any = np.float32) -> Tensor:
    """Allocate a tensor of a shape, not initialised, in memory of numpy.

    Args:
        shape: Its sides.
        dtype: A dtype of numpy.

    Example:
        >>> values = reused(2, 3)
        >>> values.shape, values.dtype
        (torch.Size([2, 3]), torch.float32)
    """
    return torch.from_numpy(np.empty(shape, dtype))


def zeros(shape: Sequence[int], dtype: torch.dtype, beside: Tensor) -> Tensor:
    """Return zeros on the device of another tensor.

    Args:
        shape: Shape of the zeros.
        dtype: float16, float32 or bool.
        beside: The tensor whose device is used.

    Example:
        >>> zeros((1, 2), torch.bool, beside=torch.ones(3))
        tensor([[False, False]])
    """
    if not serves(beside):
        return torch.zeros(*shape, dtype=dtype, device=beside.device)
    result = reused(*shape, dtype=_NUMPY[dtype])
    result.numpy().fill(0)
    return result


# The C library gives freed memory back to the system at once, and the pages of the next map come one by one from there,
# which costs more than the work on them. But it keeps blocks that are smaller than one that was freed before: this one,
# which is never used.
_block = np.empty(2**25 - 2**16, np.uint8)
del _block


class _Buffer(threading.local):
    """Memory that each thread uses again: fresh pages for every frame cost as much as the work itself."""

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
    """Maps of one batch in the layout in which OpenCV samples them fastest.

    Four channels at a time are interleaved, across maps. One or two channels that are left over share the memory of
    float32 maps, which must not change as long as samples are taken.

    Args:
        values: Maps (B, C, H, W), floating point; C may differ.

    Example:
        >>> images = Images([torch.tensor([[[[0.0, 4.0, 8.0]]]])])
        >>> flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> images.along(flow)
        [tensor([[[[2., 6., 8.]]]])]
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.channels = [value.shape[1] for value in values]
        planes = ([*chain(*(value[number].float().numpy() for value in values))] for number in range(len(values[0])))
        self.images = [_images(one) for one in planes]

    def along(self, flow: Tensor) -> list[Tensor]:
        """Sample each map bilinearly where a flow leads; outside of the frame, at the nearest point of its border.

        Args:
            flow: (B, 2, h, w), floating point, in pixels.

        Returns:
            Samples (B, C, h, w) float32 of each map.
        """
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
    """Interleave planes by fours, as OpenCV samples them; one or two that are left over are faster by themselves."""
    groups = [planes[start : start + _CHANNELS] for start in range(0, len(planes), _CHANNELS)]
    images: list[np.ndarray] = []
    for group in groups:
        images += group if len(group) < 3 else [cv2.merge(group + group[:1] * (_CHANNELS - len(group)))]
    return images


def _remap(image: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    cv2.remap(image, x, y, cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP, out, cv2.BORDER_REPLICATE)


def remap_labels(values: Tensor, flow: Tensor, outside: int) -> Tensor:
    """Sample the nearest values where a flow leads.

    Args:
        values: (B, H, W) uint8 or bool.
        flow: (B, 2, h, w) float32 in pixels, finite.
        outside: Value where the flow leads out of the frame.

    Returns:
        (B, h, w), dtype of ``values``.

    Example:
        >>> labels = torch.tensor([[[1, 2, 3]]], dtype=torch.uint8)
        >>> flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> remap_labels(labels, flow, outside=255)
        tensor([[[  2,   3, 255]]], dtype=torch.uint8)
    """
    result = np.empty((len(values), *flow.shape[-2:]), np.uint8)
    # OpenCV rounds halves to even numbers, which would double some pixels of a map that moves by half a pixel. Adding
    # the smallest step of float32 at the far end of the frame makes it round halves up.
    up = np.spacing(np.float32(max(*values.shape[-2:], *flow.shape[-2:])))
    for value, (x, y), out in zip(values.view(torch.uint8).numpy(), flow.numpy() + up, result, strict=True):
        value, how = np.ascontiguousarray(value), cv2.INTER_NEAREST | cv2.WARP_RELATIVE_MAP
        cv2.remap(value, x, y, how, out, cv2.BORDER_CONSTANT, outside)
    return torch.from_numpy(result).view(values.dtype)


@lru_cache(maxsize=1)
def remap_is_exact() -> bool:
    """Tell whether this OpenCV interpolates at the exact coordinates; releases before 5 round them to 1/32 pixel.

    Example:
        >>> remap_is_exact() in (True, False)
        True
    """
    if not hasattr(cv2, "WARP_RELATIVE_MAP"):
        return False
    places, column = np.linspace(0, 63, 256, dtype=np.float32).reshape(1, -1), np.arange(256, dtype=np.float32)
    ramp, found = np.arange(64, dtype=np.float32).reshape(1, 64), np.empty((1, 256), np.float32)
    found_by_fours = np.empty((1, 256, _CHANNELS), np.float32)
    _remap(ramp, places - column, np.zeros_like(places), found)
    _remap(np.repeat(ramp[..., None], _CHANNELS, 2), places - column, np.zeros_like(places), found_by_fours)
    return bool(max(np.abs(found - places).max(), np.abs(found_by_fours - places[..., None]).max()) < 1e-4)


def filter_rows_and_columns(values: Tensor, kernel: Sequence[float]) -> Tensor:
    """Filter each map of ``values`` (C, H, W) float32 with a kernel along both axes; outside of the frame is zero.

    Example:
        >>> filter_rows_and_columns(torch.tensor([[[0.0, 4.0, 0.0]]]), [0.5, 1.0, 0.5])
        tensor([[[2., 4., 2.]]])
    """
    result, weights = reused(*values.shape), np.array(kernel, np.float32)
    for value, out in zip(values.numpy(), result.numpy(), strict=True):
        cv2.sepFilter2D(value, -1, weights, weights, out, borderType=cv2.BORDER_CONSTANT)
    return result


def strongest(labels: Tensor, weights: Tensor, kernel: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the class with the most votes at each pixel, without a map of votes for each class.

    Args:
        labels: (S, H, W) uint8, 255 where a source has none.
        weights: (S, H, W) float32, the votes of each source, non-negative.
        kernel: Filters the votes of each class along both axes, odd length; outside of the frame are no votes.

    Returns:
        Class (H, W) uint8, of equals the lowest; its votes and those of all classes, (H, W) float32.

    Example:
        >>> labels = torch.tensor([[[0, 1]], [[1, 1]]], dtype=torch.uint8)
        >>> weights = torch.tensor([[[0.75, 0.5]], [[0.25, 0.5]]])
        >>> strongest(labels, weights, kernel=[1.0])
        (tensor([[0, 1]], dtype=torch.uint8), tensor([[0.7500, 1.0000]]), tensor([[1., 1.]]))
    """
    weight, margin = np.array(kernel, np.float32), len(kernel) // 2
    said, shares = labels.numpy(), weights.numpy()
    chosen, most = (np.zeros(labels.shape[1:], dtype) for dtype in (np.uint8, np.float32))
    counts = cv2.calcHist([said.reshape(-1, said.shape[2])], [0], None, [256], [0, 256])
    # Python's numbers: to compare bytes with one of numpy's, which has 64 bits, would widen them first.
    for number in np.flatnonzero(counts[:IGNORE_INDEX]).tolist():
        mine = said == number
        left, top, width, height = cv2.boundingRect(np.bitwise_or.reduce(mine).view(np.uint8))
        # The part of the frame in which the class has votes after filtering; for nearly all classes it is small.
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
    """Sum ``values`` (S, H, W) float32 over S where ``masks`` are set, and filter the sum along both axes."""
    total = np.zeros(values.shape[1:], np.float32)
    for value, mask in zip(values, masks.view(np.uint8), strict=True):
        cv2.accumulate(value, total, mask)
    return cv2.sepFilter2D(total, -1, weight, weight, borderType=cv2.BORDER_CONSTANT)


def box_sums(values: Tensor, window: int) -> Tensor:
    """Sum ``values`` (B, H, W) float32 over squares of odd side ``window``; outside of the frame is zero.

    Example:
        >>> box_sums(torch.ones(1, 2, 3), window=3)
        tensor([[[4., 6., 4.],
                 [4., 6., 4.]]])
    """
    result = reused(*values.shape)
    for value, out in zip(values, result, strict=True):
        cv2.boxFilter(value.numpy(), -1, (window, window), out.numpy(), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return result
