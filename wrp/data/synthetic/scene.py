"""Procedural street scenes with exact labels, optical flow and occlusion.

Every surface of the world is a textured plane, so between two frames it moves by one homography: the flow of a pixel
follows from the surface seen there, without estimation. Labels, flow and occlusion all come from one raster of surface
numbers per frame and therefore agree with one another at every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from wrp.data.synthetic.textures import CLASSES, SKY, TRANSPARENT, Array, Painter
from wrp.data.synthetic.world import Camera, Scene, Surface

__all__ = ["CLASSES", "Motion", "SyntheticClip", "SyntheticFrame", "iterate_frames", "render_clip"]

_MIN_CLASSES = 8
_NEAR = 0.3  # metres; what is closer to the camera is not drawn


@dataclass(frozen=True)
class SyntheticClip:
    """A clip with its exact annotation; T frames of H×W pixels.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        labels: (T, H, W) uint8, 0 … num_classes - 1, every pixel labelled.
        flow_fw: (T-1, 2, H, W) float32, (x, y) in pixels: the point at x in frame t is at x + flow_fw[t](x) in t+1.
        flow_bw: (T-1, 2, H, W) float32, likewise from frame t+1 to frame t.
        occlusion_fw: (T-1, H, W) bool, whether the point seen at this pixel of frame t is occluded or out of frame in
            t+1.
        occlusion_bw: (T-1, H, W) bool, likewise from frame t+1 to frame t.

    Example:
        >>> clip = render_clip(num_frames=2, height=32, width=48, num_classes=8)
        >>> clip.frames.shape, clip.labels.shape, clip.flow_fw.shape
        ((2, 32, 48, 3), (2, 32, 48), (1, 2, 32, 48))
    """

    frames: Array
    labels: Array
    flow_fw: Array
    flow_bw: Array
    occlusion_fw: Array
    occlusion_bw: Array


class Motion(NamedTuple):
    """Exact motion out of one frame: flow (2, H, W) float32 in pixels and occlusion (H, W) bool.

    Example:
        >>> Motion(np.zeros((2, 4, 6), np.float32), np.zeros((4, 6), bool)).flow.shape
        (2, 4, 6)
    """

    flow: Array
    occlusion: Array


class SyntheticFrame(NamedTuple):
    """Frame t: image (H, W, 3) uint8 RGB, labels (H, W) uint8, motion t → t+1 and t+1 → t (None for the last frame).

    Example:
        >>> first, last = iterate_frames(num_frames=2, height=32, width=48, num_classes=8)
        >>> first.forward.flow.shape, last.forward
        ((2, 32, 48), None)
    """

    image: Array
    labels: Array
    forward: Motion | None
    backward: Motion | None


def render_clip(
    num_frames: int = 49, height: int = 256, width: int = 448, num_classes: int = 10, seed: int = 0
) -> SyntheticClip:
    """Render a street scene with its labels, flow and occlusion.

    Args:
        num_frames: T, at least 1.
        height: H in pixels, at least 16.
        width: W in pixels, at least 16; apparent motion grows with it.
        num_classes: The number of classes, the first ones of ``CLASSES``; 8 … ``len(CLASSES)``.
        seed: Selects layout, colours and motion, at least 0; equal arguments give equal bytes.

    Returns:
        The clip.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> clip = render_clip(num_frames=1, height=32, width=48, num_classes=8, seed=3)
        >>> int(clip.labels.max()) < 8
        True
    """
    steps = iterate_frames(num_frames, height, width, num_classes, seed)
    size, pairs = (height, width), num_frames - 1
    clip = SyntheticClip(
        np.empty((num_frames, *size, 3), np.uint8),
        np.empty((num_frames, *size), np.uint8),
        *(np.empty((pairs, 2, *size), np.float32) for _ in range(2)),
        *(np.empty((pairs, *size), np.bool_) for _ in range(2)),
    )
    for t, step in enumerate(steps):
        clip.frames[t], clip.labels[t] = step.image, step.labels
        if step.forward is not None and step.backward is not None:
            clip.flow_fw[t], clip.occlusion_fw[t] = step.forward
            clip.flow_bw[t], clip.occlusion_bw[t] = step.backward
    return clip


def iterate_frames(
    num_frames: int = 49, height: int = 256, width: int = 448, num_classes: int = 10, seed: int = 0
) -> Iterator[SyntheticFrame]:
    """Return an iterator over the frames of :func:`render_clip`, in constant memory; same arguments and errors.

    Example:
        >>> len(list(iterate_frames(num_frames=3, height=32, width=48, num_classes=8)))
        3
    """
    _check_arguments(num_frames, height, width, num_classes, seed)
    rng = np.random.default_rng(seed)
    camera, exposure = Camera(rng, num_frames, height, width), _Exposure(rng, seed)
    painter = Painter(rng, num_classes, float(np.clip(width / 7, 32, 160)))
    scene = Scene(rng, camera, painter, num_classes)
    return _iterate((_raster(scene, t, height, width) for t in range(num_frames)), exposure)


def _check_arguments(num_frames: int, height: int, width: int, num_classes: int, seed: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if height < 16 or width < 16:
        raise ValueError(f"height and width must be at least 16 pixels, got {height}x{width}")
    if not _MIN_CLASSES <= num_classes <= len(CLASSES):
        raise ValueError(f"num_classes must be in {_MIN_CLASSES} … {len(CLASSES)}, got {num_classes}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def _iterate(rasters: Iterator[_Raster], exposure: _Exposure) -> Iterator[SyntheticFrame]:
    current, backward, t = next(rasters), None, 0
    for t, following in enumerate(rasters, start=1):
        forward, backward = _motion(current, following), _motion(following, current)
        image = exposure.apply(current.colour, forward.flow, t - 1)
        yield SyntheticFrame(image, current.labels, forward, backward)
        current = following
    image = exposure.apply(current.colour, None if backward is None else backward.flow, t)
    yield SyntheticFrame(image, current.labels, None, None)


# ----------------------------------------------------------------------------------------------------------- rasters


class _Raster(NamedTuple):
    """What the camera sees in a frame, before the effects of the camera itself."""

    colour: Array  # (H, W, 3) uint8
    labels: Array  # (H, W) uint8
    owners: Array  # (H, W) int32: number of the plane seen at a pixel
    homographies: Array  # (N, 3, 3) float64: [0, 1]² on a surface → pixels; the third component is the depth


def _raster(scene: Scene, t: int, height: int, width: int) -> _Raster:
    homographies, order = scene.view(t)
    boxes, sizes, reaches_behind = _outlines(homographies, height, width)
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    colour, labels = np.zeros((height, width, 3), np.uint8), np.full((height, width), SKY, np.uint8)
    raster = _Raster(colour, labels, np.zeros((height, width), np.int32), homographies)
    inverses = np.linalg.inv(homographies[order])
    views = zip(inverses, boxes[order].tolist(), sizes[order].tolist(), reaches_behind[order], strict=True)
    for number, view in zip(order.tolist(), views, strict=True):
        _paint(raster, scene.surfaces[number], *view)
    return raster


def _outlines(homographies: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """Return boxes (N, 4), empty if out of view, sizes (N, 2), and which of N surfaces extend behind the camera."""
    corners = np.einsum("nij,cj->nci", homographies, np.array([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]))
    x, y, depth = corners[..., 0], corners[..., 1], corners[..., 2]
    points = corners[..., :2] / np.maximum(depth, _NEAR)[..., None]
    edges = np.linalg.norm(points - np.roll(points, -1, 1), axis=2)
    sizes = np.maximum(edges[:, :2], edges[:, 2:])
    spans = np.concatenate((np.floor(points.min(1)), np.ceil(points.max(1)) + 1), 1)
    boxes = np.clip(spans, 0, (width, height, width, height)).astype(int)
    reaches_behind = (depth < _NEAR).any(1)
    boxes[reaches_behind], sizes[reaches_behind] = (0, 0, width, height), 1e9  # full resolution
    # In homogeneous coordinates this holds for corners behind the camera as well.
    beside = (depth < _NEAR, x < -depth, x > width * depth, y < -depth, y > height * depth)
    boxes[np.any([corner.all(1) for corner in beside], axis=0)] = 0
    return boxes, sizes, reaches_behind


def _paint(
    raster: _Raster, surface: Surface, inverse: Array, box: list[int], size: tuple[float, float], reaches_behind: bool
) -> None:
    """Put a surface over what is in the raster; ``inverse`` leads from pixels to [0, 1]² over the surface."""
    x0, y0, x1, y1 = box
    area = np.s_[y0:y1, x0:x1]
    inverse = inverse @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
    labels = _warp(surface.texture.labels, inverse, (x1 - x0, y1 - y0), True)
    shown = labels != TRANSPARENT
    if reaches_behind:
        # What lies behind the camera projects into the picture as well, mirrored.
        a, b, c = inverse[2]
        shown &= a * np.arange(x1 - x0) + b * np.arange(y1 - y0)[:, None] + c > 0
    if not shown.any():
        return
    colours = _warp(surface.texture.colours(size), inverse, (x1 - x0, y1 - y0), False)
    owners = np.full(labels.shape, surface.plane, np.int32)
    for source, target in ((colours, raster.colour), (labels, raster.labels), (owners, raster.owners)):
        cv2.copyTo(source, shown.view(np.uint8), target[area])


def _warp(texture: Array, inverse: Array, size: tuple[int, int], is_label: bool) -> Array:
    """Sample a texture; ``inverse`` leads from pixels to [0, 1]² over it, ``size`` is (width, height)."""
    height, width = texture.shape[:2]
    to_texels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]]) @ inverse
    border = cv2.BORDER_CONSTANT if is_label else cv2.BORDER_REPLICATE
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR)
    return cv2.warpPerspective(texture, to_texels, size, flags=flags, borderMode=border, borderValue=TRANSPARENT)


def _motion(source: _Raster, target: _Raster) -> Motion:
    """Compute flow and occlusion of the pixels of ``source`` towards ``target``."""
    height, width = source.owners.shape
    xs, ys = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    planes = np.flatnonzero(np.bincount(source.owners.ravel()))
    moved = target.homographies[planes] @ np.linalg.inv(source.homographies[planes])
    transfers = np.zeros((3, 3, planes[-1] + 1), np.float32)
    transfers[:, :, planes] = moved.transpose(1, 2, 0)
    owners = source.owners.astype(np.intp)  # else converted by every take
    across, down, depth = (a.take(owners) * xs + (b.take(owners) * ys + c.take(owners)) for a, b, c in transfers)
    # A depth near zero is a point beside the camera: out of frame, wherever exactly.
    scale = 1 / np.maximum(depth, np.float32(0.05))
    flow = np.stack((across * scale - xs, down * scale - ys))
    # A border of pixels without a surface stands for everything outside of the picture.
    framed = np.pad(target.owners, 1, constant_values=-1)
    to_x = np.clip(np.rint(flow[0] + xs), -1, width).astype(np.intp) + 1
    to_y = np.clip(np.rint(flow[1] + ys), -1, height).astype(np.intp) + 1
    return Motion(flow, framed.ravel().take(to_y * (width + 2) + to_x) != source.owners)


# ----------------------------------------------------------------------------------------------------- camera effects


class _Exposure:
    """Effects of the camera on the picture, not on geometry: brightness and colour drift, blur, sensor noise."""

    def __init__(self, rng: np.random.Generator, seed: int) -> None:
        self._seed = seed
        self._amplitudes = rng.uniform(0.03, 0.12) * np.eye(4)[0] + rng.uniform(0, 0.03, 4) * (1 - np.eye(4)[0])
        self._phases, self._rate = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.06, 0.2)
        self._shutter, self._noise = float(rng.choice([0.0, 0.15, 0.25])), np.float32(rng.uniform(1.5, 3.5))

    def apply(self, image: Array, flow: Array | None, t: int) -> Array:
        if flow is not None and self._shutter > 0:
            image = self._blurred(image, np.clip(self._shutter * flow, -8, 8))
        image = cv2.GaussianBlur(image, (3, 3), 0.5)
        brightness, *tint = self._amplitudes * np.sin(self._rate * t + self._phases)
        # Seeded by the frame, so that a frame does not depend on how many were drawn before it.
        noise = np.random.default_rng((self._seed, t)).standard_normal(image.shape, np.float32)
        noise *= self._noise
        gains = (1 + brightness + np.array(tint)).astype(np.float32)
        lit = cv2.LUT(image, np.arange(256, dtype=np.float32)[:, None] * gains[None, None])
        return cv2.add(noise, lit, dtype=cv2.CV_8U)  # rounded and clipped

    def _blurred(self, image: Array, step: Array) -> Array:
        height, width = image.shape[:2]
        xs, ys = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        before, after = (
            cv2.remap(
                image, xs + sign * step[0], ys + sign * step[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            for sign in (-1, 1)
        )
        return cv2.addWeighted(cv2.addWeighted(before, 0.5, after, 0.5, 0), 2 / 3, image, 1 / 3, 0)
