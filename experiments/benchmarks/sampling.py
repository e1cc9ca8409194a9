"""Compare composed flow with sampling anew at every step, and the implementations of bilinear sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from measuring import Rows, least, size_name
from torch import Tensor
from torch.nn import functional

from wrp.data.index import select_clips
from wrp.data.items import WindowItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.composed import identity_flow, prepend_flow
from wrp.geometry.warp import Sampler, coordinates, warp_labels
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.options import SelectArgs


def composed(root: str) -> Rows:
    """Compare composed flow with sampling the label anew at every step: mIoU by distance, from every second frame."""
    index = open_index(root)
    batch = WindowItems(select_clips(index, SelectArgs(label_every=1)).clips, index.label_map, radius=10**6)[0]
    cache, rows = FlowCache(DIS("medium", 1)), []
    for distance in (5, 10, 20):
        counts = torch.zeros(3, index.label_map.num_classes, index.label_map.num_classes + 1, dtype=torch.long)
        for keyframe in range(0, len(batch.frames) - distance, 2):
            label = batch.labels[keyframe]
            composed, stepwise = identity_flow(label), label[None]
            for neighbour in cache.neighbours(batch, range(keyframe, keyframe + distance)):
                composed = prepend_flow(composed, neighbour.flow_bw, neighbour.flow_fw)
                stepwise = warp_labels(stepwise, neighbour.flow_bw)
            truth = batch.labels[keyframe + distance]
            for row, labels in enumerate((label, stepwise[0], warp_labels(label[None], composed.flow)[0])):
                counts[row] += confusion(labels, truth, index.label_map.num_classes)
        scores = [100 * float(mean_iou(matrix)) for matrix in counts]
        rows.append({"distance": distance} | dict(zip(("copied", "step by step", "composed"), scores, strict=True)))
    return rows


def gathered(values: Tensor, coords: Tensor) -> Tensor:
    """Sample bilinearly with four gathers of rows of channels."""
    _, channels, _height, width = values.shape
    rows = values[0].reshape(channels, -1).t().contiguous()
    x, y = coords[0]
    left, top = x.floor(), y.floor()
    right_weight, bottom_weight = (x - left).view(-1, 1), (y - top).view(-1, 1)
    base = (top * width + left).long().view(-1).clamp(max=len(rows) - width - 2)
    upper = torch.lerp(rows.index_select(0, base), rows.index_select(0, base + 1), right_weight)
    lower = torch.lerp(rows.index_select(0, base + width), rows.index_select(0, base + width + 1), right_weight)
    return torch.lerp(upper, lower, bottom_weight).t().reshape(1, channels, *x.shape)


def primitives(sizes: Sequence[tuple[int, int]]) -> Rows:
    """Time bilinear sampling of two, three and four channels by each implementation, in milliseconds."""
    rows = []
    for height, width in sizes:
        coarse = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0)) * 5
        flow = functional.interpolate(coarse, (height, width), mode="bicubic")
        coords, _ = coordinates(flow)
        for channels in (2, 3, 4):
            values = torch.randn(1, channels, height, width)
            grid = coords.permute(0, 2, 3, 1) * torch.tensor([2 / (width - 1), 2 / (height - 1)]) - 1
            torch_route = lambda v=values, g=grid: functional.grid_sample(v, g, align_corners=True)  # noqa: E731
            along = lambda v=values: Sampler(v).along(flow)  # noqa: E731, B023
            routes = (torch_route, lambda v=values: gathered(v, coords), along)  # noqa: B023
            times = least(7, *routes)
            by_route = dict(zip(("grid_sample", "four gathers", "along() (cv2.remap)"), times, strict=True))
            milliseconds = {route: 1e3 * seconds for route, seconds in by_route.items()}
            rows.append({"frames": size_name((height, width)), "channels": channels} | milliseconds)
    return rows
