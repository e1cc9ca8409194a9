"""Procedural street scenes with exact labels, optical flow and occlusion.

Every surface of the world is a textured plane, so between two frames it moves by one homography: the flow of a pixel
follows from the surface seen there, without estimation. Labels, flow and occlusion all come from one raster of surface
numbers per frame and therefore agree with one another at every pixel. World axes: x right, y down, z forward, in
metres; the ground is y = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]
Point = tuple[float, float, float]

CLASSES: tuple[tuple[str, Colour], ...] = (
    ("road", (128, 64, 128)),
    ("building", (128, 0, 0)),
    ("sky", (128, 128, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("pole", (192, 192, 128)),
    ("car", (64, 0, 128)),
    ("person", (64, 64, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("bicyclist", (0, 128, 192)),
    ("grass", (0, 192, 64)),
)
_ROAD, _BUILDING, _SKY, _PAVEMENT, _TREE, _POLE, _CAR, _PERSON, _SIGN, _FENCE, _BICYCLIST, _GRASS = range(12)
_MIN_CLASSES = 8
_HIDDEN = 255  # label of a transparent texel

# Metres. The road is centred on x = 0; the camera starts at z = 0.
_NEAR = 0.3  # nothing closer to the camera is drawn
_VIEW = 85.0  # street built beyond the last camera position
_TILE = 12.0  # along the street, per building and per piece of ground
_ROAD_EDGE, _FACADE, _GROUND_EDGE = 5.0, 9.5, 12.0  # x of the kerb, the buildings and the end of the paved ground
_LANE = 1.6  # x of the camera; the other lane is mirrored
_PARKED = 4.1  # x of parked cars
_BACKDROP, _GROUND, _OBJECT = range(3)  # painting order; objects are painted from far to near
_GLASS, _TYRE = (35, 40, 48), (25, 25, 28)


@dataclass(frozen=True)
class SyntheticClip:
    """A clip with its exact annotation; T frames of H×W pixels.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        labels: (T, H, W) uint8, 0 … num_classes - 1, every pixel labelled.
        flow_fw: (T-1, 2, H, W) float32, (x, y) in pixels: the point at x in frame t is at x + flow_fw[t](x) in t+1.
        flow_bw: (T-1, 2, H, W) float32, likewise from frame t+1 to frame t.
        occlusion_fw: (T-1, H, W) bool, the point seen at this pixel of frame t is hidden or out of frame in t+1.
        occlusion_bw: (T-1, H, W) bool, likewise from frame t+1 to frame t.
    """

    frames: Array
    labels: Array
    flow_fw: Array
    flow_bw: Array
    occlusion_fw: Array
    occlusion_bw: Array


class Motion(NamedTuple):
    """Exact motion out of one frame: flow (2, H, W) float32 in pixels and occlusion (H, W) bool."""

    flow: Array
    occlusion: Array


class SyntheticFrame(NamedTuple):
    """Frame t: image (H, W, 3) uint8 RGB, labels (H, W) uint8, motion t → t+1 and t+1 → t (None for the last)."""

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
        num_classes: The first so many of ``CLASSES`` occur, 8 … ``len(CLASSES)``.
        seed: Selects layout, colours and motion, at least 0; equal arguments give equal bytes.

    Returns:
        The clip.

    Raises:
        ValueError: If an argument is out of its range.
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
    """Frame by frame what :func:`render_clip` returns at once, in constant memory; same arguments and errors."""
    _check_arguments(num_frames, height, width, num_classes, seed)
    return _iterate(_Scene(num_frames, height, width, num_classes, seed), num_frames)


def _check_arguments(num_frames: int, height: int, width: int, num_classes: int, seed: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if height < 16 or width < 16:
        raise ValueError(f"height and width must be at least 16 pixels, got {height}x{width}")
    if not _MIN_CLASSES <= num_classes <= len(CLASSES):
        raise ValueError(f"num_classes must be in {_MIN_CLASSES} … {len(CLASSES)}, got {num_classes}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def _iterate(scene: _Scene, num_frames: int) -> Iterator[SyntheticFrame]:
    current, backward = scene.raster(0), None
    for t in range(num_frames - 1):
        following = scene.raster(t + 1)
        forward, backward = _motion(current, following), _motion(following, current)
        image = scene.exposure.apply(current.colour, forward.flow, t)
        yield SyntheticFrame(image, current.labels, forward, backward)
        current = following
    image = scene.exposure.apply(current.colour, None if backward is None else backward.flow, num_frames - 1)
    yield SyntheticFrame(image, current.labels, None, None)


# ------------------------------------------------------------------------------------------------------ exact motion


class _Raster(NamedTuple):
    colour: Array  # (H, W, 3) uint8
    labels: Array  # (H, W) uint8
    owners: Array  # (H, W) uint16: number of the plane seen at a pixel
    boxes: dict[int, tuple[int, int, int, int]]  # plane → x0, y0, x1, y1 around all of its pixels
    homographies: Array  # (N, 3, 3) float64: [0, 1]² on a surface → pixels; the third component is the depth


def _motion(source: _Raster, target: _Raster) -> Motion:
    """Flow and occlusion of the pixels of ``source`` towards ``target``."""
    height, width = source.owners.shape
    all_x, all_y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    flow = np.zeros((2, height, width), np.float32)
    planes = np.flatnonzero(np.bincount(source.owners.ravel())).tolist()
    transfers = target.homographies[planes] @ np.linalg.inv(source.homographies[planes])
    for plane, (across, down, depth) in zip(planes, transfers.astype(np.float32), strict=True):
        x0, y0, x1, y1 = source.boxes[plane]
        xs, ys, box = all_x[x0:x1], all_y[y0:y1], np.s_[y0:y1, x0:x1]
        mask = source.owners[box] == plane
        # A depth near zero is a point beside the camera: out of frame, wherever exactly.
        scale = 1 / np.maximum(depth[0] * xs + (depth[1] * ys + depth[2]), np.float32(0.05))
        np.copyto(flow[0][box], (across[0] * xs + (across[1] * ys + across[2])) * scale - xs, where=mask)
        np.copyto(flow[1][box], (down[0] * xs + (down[1] * ys + down[2])) * scale - ys, where=mask)
    # A frame of pixels that belong to nothing stands for everything outside of the picture.
    framed = np.pad(target.owners, 1, constant_values=np.iinfo(np.uint16).max)
    to_x = np.clip(np.rint(flow[0] + all_x), -1, width).astype(np.int32) + 1
    to_y = np.clip(np.rint(flow[1] + all_y), -1, height).astype(np.int32) + 1
    return Motion(flow, framed.ravel().take(to_y * (width + 2) + to_x) != source.owners)


# -------------------------------------------------------------------------------------------------------- appearance


class _Exposure:
    """What a camera does to the picture and not to the geometry: brightness and colour drift, blur, sensor noise."""

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
        picture = np.random.default_rng((self._seed, t)).standard_normal(image.shape, np.float32)
        picture *= self._noise
        picture += image * (1 + brightness + np.array(tint)).astype(np.float32)
        return np.clip(np.rint(picture, out=picture), 0, 255, out=picture).astype(np.uint8)

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


# ---------------------------------------------------------------------------------------------------------- textures


class _Texture:
    """Labels (h, w) uint8 of a plane and its colours (h, w, 3) uint8, in several resolutions."""

    def __init__(self, colours: Array, labels: Array) -> None:
        self.labels = labels
        self._levels = {(0, 0): colours}

    def colours(self, seen_size: tuple[float, float]) -> Array:
        """Colours at about the resolution (across, down) they are seen at; sampling finer ones would flicker."""
        height, width = self.labels.shape
        ratios = width / max(seen_size[0], 1), height / max(seen_size[1], 1)
        key = max(0, round(math.log2(ratios[0]))), max(0, round(math.log2(ratios[1])))
        if key not in self._levels:
            size = max(1, width >> key[0]), max(1, height >> key[1])
            self._levels[key] = cv2.resize(self._levels[0, 0], size, interpolation=cv2.INTER_AREA)
        return self._levels[key]


class _Painter:
    """Draws the textures of a scene.

    Positions are fractions of a texture's width and height, from its top left. What is drawn takes the label given to
    :meth:`start` unless another is named; a texture starts out transparent or, with ``opaque``, labelled everywhere.
    """

    def __init__(self, rng: np.random.Generator, num_classes: int, texels_per_metre: float) -> None:
        self._rng, self._num_classes, self._density = rng, num_classes, texels_per_metre

    def start(self, width: float, height: float, fill: Colour, label: int, opaque: bool = False) -> None:
        """Begin a texture of so many metres at the density of an object nearby."""
        self._size = np.maximum(np.rint(np.array((width, height)) * self._density), 2).astype(int)
        self._label = label
        self._colours: Array = np.full((self._size[1], self._size[0], 3), fill, np.uint8)
        self._labels: Array = np.full((self._size[1], self._size[0]), label if opaque else _HIDDEN, np.uint8)

    def polygon(self, points: Any, colour: Colour, label: int | None = None) -> None:
        corners = np.rint(np.asarray(points) * self._size).astype(np.int32)
        cv2.fillPoly(self._colours, [corners], colour)
        cv2.fillPoly(self._labels, [corners], self._label if label is None else label)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, label: int | None = None) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, label)

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: Colour, label: int | None = None) -> None:
        angle = np.linspace(0, 2 * np.pi, 20)
        self.polygon(np.stack((x + wide / 2 * np.cos(angle), y + high / 2 * np.sin(angle)), 1), colour, label)

    def finish(self, grain: float) -> _Texture:
        """The texture, its brightness varied at random by about the share ``grain``."""
        width, height = (int(n) for n in self._size)
        noise = np.zeros((height, width, 1), np.float32)
        for cell in (2, 8, 32):
            coarse = self._rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
            noise[..., 0] += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        return _Texture(np.clip(self._colours * (1 + grain * noise), 0, 255).astype(np.uint8), self._labels)

    def tint(self, colour: Colour, spread: float = 14) -> Colour:
        shift = self._rng.normal(0, spread) + self._rng.normal(0, spread / 3, 3)
        red, green, blue = np.clip(np.array(colour) + shift, 5, 250).astype(int).tolist()
        return red, green, blue

    def pick(self, *colours: Colour) -> Colour:
        return self.tint(colours[self._rng.integers(len(colours))])

    def sky(self) -> _Texture:
        self.start(4, 3, self.tint((170, 195, 225), 8), _SKY, opaque=True)
        for x, y, wide, high in self._rng.uniform((0, 0, 0.03, 0.01), (1, 1, 0.12, 0.04), (30, 4)):
            self.ellipse(x, y, wide, high, self.tint((215, 222, 230), 8))
        return self.finish(0.006)

    def skyline(self) -> _Texture:
        self.start(15, 1.2, (150, 160, 170), _BUILDING)
        self.box(0, 0.6, 1, 1, (125, 125, 120))
        for x in np.arange(0, 1, 0.012):
            top, wide = self._rng.uniform((0.1, 0.008), (0.55, 0.03))
            if self._rng.random() < 0.6:
                self.box(x, top, x + wide, 1, self.pick((150, 130, 115), (140, 140, 145)))
            else:
                self.ellipse(x, 0.62, wide, 0.8 - top, self.pick((70, 100, 65)), _TREE)
        return self.finish(0.03)

    def facade(self) -> _Texture:
        wall = self.pick((165, 110, 85), (185, 165, 135), (150, 140, 130), (175, 140, 110))
        self.start(_TILE / 2, 4, wall, _BUILDING, opaque=True)
        columns, storeys = self._rng.integers((3, 2), (7, 5))
        for x in (np.arange(columns) + 0.5) / columns:
            for y in (np.arange(storeys) + 0.5) / storeys:
                for share, colour in ((0.22, self.tint((205, 200, 190))), (0.17, self.tint((60, 70, 85)))):
                    wide, high = share / columns, share / storeys
                    self.box(x - wide, y - high, x + wide, y + high, colour)
        self.box(0, 0, 1, 0.03, self.tint((90, 75, 70)))
        return self.finish(0.04)

    def street(self) -> _Texture:
        """Ground between the buildings on both sides; the top of the texture is the far end."""
        metre = 1 / (2 * _GROUND_EDGE)
        self.start(1.4 * _GROUND_EDGE, 0.7 * _TILE, self.pick((160, 150, 145)), _PAVEMENT, opaque=True)
        for y in np.arange(0, 1, 0.125):
            self.box(0, y, 1, y + 0.008, self.tint((125, 118, 115), 6))
        if self._num_classes > _GRASS:
            for x in (0, 1 - 4 * metre):
                self.box(x, 0, x + 4 * metre, 1, self.tint((120, 140, 60)), _GRASS)
        kerb = _ROAD_EDGE * metre
        self.box(0.5 - kerb - 0.2 * metre, 0, 0.5 + kerb + 0.2 * metre, 1, (190, 185, 180))
        self.box(0.5 - kerb, 0, 0.5 + kerb, 1, self.tint((88, 88, 95), 3), _ROAD)
        self.box(0.5 - 0.1 * metre, 0.1, 0.5 + 0.1 * metre, 0.5, (215, 215, 210), _ROAD)
        return self.finish(0.05)

    def crossing(self) -> _Texture:
        """Ground with a side street, twelve tiles wide."""
        asphalt, kerb = self.tint((88, 88, 95), 3), _ROAD_EDGE / (12 * _TILE)
        self.start(4 * _TILE, 0.3 * _TILE, self.pick((160, 150, 145)), _PAVEMENT, opaque=True)
        self.box(0, 0.2, 1, 0.8, asphalt, _ROAD)
        self.box(0.5 - kerb, 0, 0.5 + kerb, 1, asphalt, _ROAD)
        return self.finish(0.05)

    def land(self) -> _Texture:
        label, colour = (_GRASS, (120, 140, 60)) if self._num_classes > _GRASS else (_PAVEMENT, (160, 150, 145))
        self.start(4, 4, self.tint(colour), label, opaque=True)
        return self.finish(0.05)

    def fence(self) -> _Texture:
        self.start(0.7 * _TILE, 1.2, (60, 60, 55), _FENCE)
        wood = self.pick((120, 85, 50), (75, 90, 85))
        self.box(0, 0.12, 1, 1, self.tint((55, 50, 45), 5))
        for x in np.arange(0.01, 1, 0.025):
            self.box(x, self._rng.uniform(0, 0.08), x + 0.015, 1, self.tint(wood, 6))
        return self.finish(0.05)

    def tree(self) -> _Texture:
        green = self.pick((60, 90, 40), (85, 105, 45), (70, 85, 55))
        self.start(4, 6, green, _TREE)
        self.box(0.46, 0.4, 0.54, 1, self.tint((75, 60, 45)))
        for angle, radius, wide in self._rng.uniform((0, 0, 0.12), (2 * np.pi, 0.36, 0.28), (70, 3)):
            x, y = 0.5 + radius * np.cos(angle), 0.34 + 0.75 * radius * np.sin(angle)
            self.ellipse(x, y, wide, 0.6 * wide, self.tint(green, 12))
        return self.finish(0.12)

    def pole(self) -> _Texture:
        grey = self.pick((75, 78, 75), (105, 105, 100))
        self.start(1.6, 6, grey, _POLE)
        self.box(0.47, 0, 0.53, 1, grey)
        self.box(0, 0, 0.5, 0.018, grey)
        return self.finish(0.02)

    def sign(self) -> _Texture:
        self.start(0.9, 3, (90, 90, 90), _SIGN)
        self.box(0.42, 0.1, 0.58, 1, self.tint((110, 110, 108)), _POLE)
        if self._num_classes > _SIGN:
            colour = self.pick((200, 35, 35), (35, 75, 190), (225, 190, 40))
            if self._rng.random() < 0.5:
                self.ellipse(0.5, 0.16, 1, 0.3, colour)
            else:
                self.box(0, 0.02, 0.99, 0.3, colour)
            self.box(0.25, 0.13, 0.75, 0.19, (235, 235, 235))
        return self.finish(0.02)

    def car(self) -> tuple[_Texture, _Texture]:
        """One car from behind (1.8 m x 1.45 m) and from its side (4.2 m x 1.45 m)."""
        paint = self.pick((170, 30, 35), (35, 60, 140), (205, 205, 210), (40, 42, 45), (190, 150, 40))
        lamps = self.pick((200, 40, 30), (230, 220, 190))
        self.start(1.8, 1.45, paint, _CAR)
        for x in (0.05, 0.78):
            self.box(x, 0.7, x + 0.17, 0.99, _TYRE)
        self.polygon([(0.2, 0), (0.8, 0), (0.95, 0.42), (0.99, 0.85), (0.01, 0.85), (0.05, 0.42)], paint)
        self.polygon([(0.24, 0.06), (0.76, 0.06), (0.86, 0.38), (0.14, 0.38)], _GLASS)
        for x in (0.04, 0.82):
            self.box(x, 0.48, x + 0.14, 0.6, lamps)
        self.box(0.36, 0.65, 0.64, 0.75, (225, 225, 215))
        back = self.finish(0.03)
        self.start(4.2, 1.45, paint, _CAR)
        roof = [(0, 0.45), (0.12, 0.42), (0.25, 0), (0.7, 0), (0.85, 0.42), (1, 0.52), (1, 0.82), (0, 0.82)]
        self.polygon(roof, paint)
        self.polygon([(0.17, 0.4), (0.27, 0.06), (0.46, 0.06), (0.46, 0.4)], _GLASS)
        self.polygon([(0.49, 0.4), (0.49, 0.06), (0.68, 0.06), (0.8, 0.4)], _GLASS)
        for x in (0.2, 0.8):
            self.ellipse(x, 0.78, 0.16, 0.44, _TYRE)
            self.ellipse(x, 0.78, 0.07, 0.2, (150, 150, 150))
        return back, self.finish(0.03)

    def person(self) -> _Texture:
        self.start(0.7, 1.75, (60, 50, 60), _PERSON)
        shirt = self.pick((190, 60, 60), (60, 90, 160), (205, 190, 160), (120, 60, 130))
        self._body(0.5, 1.0, shirt, self.pick((40, 45, 70), (60, 50, 45), (95, 90, 80)))
        return self.finish(0.04)

    def bicyclist(self) -> _Texture:
        self.start(1.8, 1.8, (50, 50, 50), _BICYCLIST)
        self._body(0.47, 0.4, self.pick((225, 215, 50), (240, 130, 40)), self.tint((35, 40, 50)))
        for x in (0.2, 0.8):
            self.ellipse(x, 0.81, 0.39, 0.37, _TYRE)
            self.ellipse(x, 0.81, 0.29, 0.27, (140, 140, 135))
        frame = [(0.2, 0.81), (0.4, 0.55), (0.74, 0.5), (0.8, 0.8), (0.7, 0.56), (0.48, 0.82)]
        self.polygon(frame, self.pick((200, 60, 40), (50, 160, 170)))
        return self.finish(0.04)

    def _body(self, x: float, wide: float, shirt: Colour, trousers: Colour) -> None:
        for leg in (-0.28, 0.05):
            self.box(x + leg * wide, 0.5, x + (leg + 0.23) * wide, 1, trousers)
        self.ellipse(x, 0.38, 0.8 * wide, 0.46, shirt)
        self.ellipse(x, 0.09, 0.36 * wide, 0.18, self.pick((215, 170, 140), (140, 95, 70)))
        self.ellipse(x, 0.04, 0.36 * wide, 0.09, (50, 38, 30))


# ------------------------------------------------------------------------------------------------------------- scene


class _Camera:
    """Drives straight, drives with swaying yaw, or stands and pans."""

    def __init__(self, rng: np.random.Generator, num_frames: int, height: int, width: int) -> None:
        focal = 0.9 * max(width, 1.6 * height)
        self._intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, 0.45 * height], [0, 0, 1.0]])
        self.speed = 0.0 if rng.random() < 0.2 else float(rng.uniform(0.1, 0.2))  # metres per frame
        pan = rng.uniform(0.03, 0.09) if self.speed == 0 else rng.choice([0.01, 0.05])
        amplitudes, periods = np.array((pan, 0.004, 0.008, 0.02)), np.array((70, 19, 41, 13))
        t = np.arange(num_frames)
        swing = amplitudes * np.sin(2 * np.pi * t[:, None] / periods + rng.uniform(0, 2 * np.pi, 4))
        self._angles = swing[:, :3]  # (T, 3) yaw, pitch, roll in radians
        self.positions = np.stack((np.full(num_frames, _LANE), swing[:, 3] - rng.uniform(1.5, 1.9), self.speed * t), 1)

    def projection(self, t: int) -> Array:
        """(3, 3) from directions in the world to homogeneous pixels."""
        (cy, cp, cr), (sy, sp, sr) = np.cos(self._angles[t]), np.sin(self._angles[t])
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return self._intrinsics @ roll @ pitch @ yaw


@dataclass
class _Surface:
    texture: _Texture
    columns: Array  # (3, 3) metres: along the texture's width, along its height, its top left corner
    rank: int
    depth: float  # z that decides what is painted first among objects
    plane: int  # number of the first surface in this plane; all of them move alike
    path: Array | None  # (T, 3) metres added to the position, for what moves on its own


class _Scene:
    """The surfaces of a street, and what the camera sees of them."""

    def __init__(self, num_frames: int, height: int, width: int, num_classes: int, seed: int) -> None:
        self._rng = rng = np.random.default_rng(seed)
        self._size, self._classes, self._frames = (height, width), num_classes, np.arange(num_frames)
        self._camera = _Camera(rng, num_frames, height, width)
        self.exposure = _Exposure(rng, seed)
        self._surfaces: list[_Surface] = []
        painter = _Painter(rng, num_classes, float(np.clip(width / 7, 32, 160)))
        end = float(self._camera.positions[-1, 2]) + _VIEW
        self._build_backdrop(painter)
        self._build_street(painter, end)
        self._build_furniture(painter, end)
        self._build_traffic(painter, end)
        self._build_people(painter, end)
        self._ranks = np.array([surface.rank for surface in self._surfaces])
        self._depths = np.array([surface.depth for surface in self._surfaces])
        self._columns = np.stack([surface.columns for surface in self._surfaces])
        self._paths = [(n, surface.path) for n, surface in enumerate(self._surfaces) if surface.path is not None]

    def _add(
        self,
        texture: _Texture,
        corner: Point,
        across: Point,
        down: Point,
        rank: int = _OBJECT,
        depth: float = 0.0,
        plane: int | None = None,
        path: Array | None = None,
    ) -> int:
        number = len(self._surfaces) if plane is None else plane
        columns = np.array((across, down, corner), np.float64).T
        self._surfaces.append(_Surface(texture, columns, rank, depth, number, path))
        return number

    def _path(self, x: Any = 0.0, z: Any = 0.0) -> Array:
        path = np.zeros((len(self._frames), 3))
        path[:, 0], path[:, 2] = x, z
        return path

    def _flat(self, texture: _Texture, half_width: float, z0: float, z1: float, plane: int | None = None) -> int:
        return self._add(texture, (-half_width, 0, z1), (2 * half_width, 0, 0), (0, 0, z0 - z1), _GROUND, plane=plane)

    def _along(
        self,
        texture: _Texture,
        x: float,
        z: float,
        length: float,
        height: float,
        depth: float,
        path: Array | None = None,
    ) -> None:
        """Stand a texture on the ground from z on, facing the street."""
        self._add(texture, (x, -height, z), (0, 0, length), (0, height, 0), depth=depth, path=path)

    def _upright(
        self, texture: _Texture, x: float, z: float, size: tuple[float, float], path: Array | None = None
    ) -> None:
        """Stand a texture on the ground around x, facing down the street."""
        width, height = size
        self._add(texture, (x - width / 2, -height, z), (width, 0, 0), (0, height, 0), depth=z, path=path)

    def _car(self, textures: tuple[_Texture, _Texture], x: float, z: float, path: Array | None = None) -> None:
        if abs(x - _LANE) > 1:  # a car right ahead shows no side
            self._along(textures[1], x + 0.9 * np.sign(_LANE - x), z, 4.2, 1.45, z + 0.01, path)
        self._upright(textures[0], x, z, (1.8, 1.45), path)

    def _build_backdrop(self, painter: _Painter) -> None:
        # It goes where the camera goes: as if infinitely far away.
        path = self._camera.positions
        self._add(painter.sky(), (-3, -2.5, 1), (6, 0, 0), (0, 4, 0), _BACKDROP, path=path)
        self._add(painter.skyline(), (-3, -0.09, 1), (6, 0, 0), (0, 0.2, 0), _BACKDROP, path=path)

    def _build_street(self, painter: _Painter, end: float) -> None:
        rng = self._rng
        # Copies of few textures are spread along the street: memory does not grow with the length of the clip.
        facades, fences = [painter.facade() for _ in range(8)], [painter.fence() for _ in range(2)]
        streets, crossing = [painter.street() for _ in range(3)], painter.crossing()
        ground = self._flat(painter.land(), 6 * _TILE, -_TILE, end + _TILE)
        period, first = rng.integers(4, 7), rng.integers(1, 4)
        for number, z in enumerate(np.arange(-_TILE, end, _TILE)):
            if number % period == first:
                self._flat(crossing, 6 * _TILE, z, z + _TILE, ground)
                self._cross_traffic(painter, z + _TILE / 2)
                continue
            self._flat(streets[number % 3], _GROUND_EDGE, z, z + _TILE, ground)
            for side in (-1, 1):
                if rng.random() < 0.85:
                    x, height = side * (_FACADE + rng.choice([0.0, 0.8, 1.6])), rng.uniform(5, 11)
                    facade = facades[rng.integers(8)]
                    # The front lies behind all that stands between its ends, the end wall behind the next front.
                    self._along(facade, x, z, _TILE, height, z + _TILE)
                    self._upright(facade, x + side * _TILE / 2, z + 0.01, (_TILE, height))
                if self._classes > _FENCE and (number % 4 == 3 or rng.random() < 0.35):
                    self._along(fences[rng.integers(2)], side * (_FACADE - 0.3), z, _TILE, 1.8, z + _TILE)

    def _build_furniture(self, painter: _Painter, end: float) -> None:
        rng = self._rng
        trees, poles = [painter.tree() for _ in range(5)], [painter.pole() for _ in range(2)]
        signs, cars = [painter.sign() for _ in range(4)], [painter.car() for _ in range(6)]
        greenery, parking = rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.4)
        for side in (-1, 1):
            for z in np.arange(rng.uniform(0, 5), end, 6.0):
                tree, pole, sign, car = rng.random(4) < (greenery, 0.4, 0.33, parking)
                if tree:
                    scale = rng.uniform(0.7, 1.1)
                    self._upright(trees[rng.integers(5)], side * rng.uniform(6.6, 8), z, (4 * scale, 6 * scale))
                if pole:
                    self._upright(poles[rng.integers(2)], side * 5.4, z + 1, (1.6, 6))
                if sign:
                    self._upright(signs[rng.integers(4)], side * 5.7, z + 3, (0.9, 3))
                if car:
                    self._car(cars[rng.integers(6)], side * _PARKED, z + rng.uniform(0, 1.5))

    def _build_traffic(self, painter: _Painter, end: float) -> None:
        """Cars in the other lane, oncoming or overtaking, and perhaps one ahead in the camera's."""
        rng, t, speed = self._rng, self._frames, self._camera.speed
        cars = [painter.car() for _ in range(5)]
        if rng.random() < 0.65:
            velocity = -rng.uniform(0.1, 0.2)
            first, last = 5.0, end - velocity * len(t)
        else:
            velocity = speed + rng.uniform(0.1, 0.2)
            first, last = 5.0 - (velocity - speed) * len(t), end
        z = first
        while z < last:
            self._car(cars[rng.integers(5)], -_LANE, z, self._path(z=velocity * t))
            z += rng.uniform(9, 25)
        if rng.random() < 0.6:
            ahead = rng.uniform(9, 14) + 2.5 * np.sin(2 * np.pi * t / 60 + rng.uniform(0, 6))
            self._car(cars[0], _LANE, 0.0, self._path(z=speed * t + ahead))

    def _cross_traffic(self, painter: _Painter, z: float) -> None:
        """A car that crosses on a side street, while the camera is well before it."""
        distance = z - self._camera.positions[:, 2]
        meetings = np.flatnonzero((distance > 12) & (distance < 60))
        if len(meetings) and self._rng.random() < 0.7:
            velocity = self._rng.choice([-1, 1]) * self._rng.uniform(0.18, 0.3)
            path = self._path(x=velocity * (self._frames - self._rng.choice(meetings)))
            self._upright(painter.car()[1], 0.0, z, (4.2, 1.45), path)

    def _build_people(self, painter: _Painter, end: float) -> None:
        """People along the pavements, and people and bicyclists who cross the road ahead of the camera."""
        rng, t, speed = self._rng, self._frames, self._camera.speed
        people, riders = [painter.person() for _ in range(8)], [painter.bicyclist() for _ in range(3)]
        for z in np.arange(rng.uniform(2, 6), end, rng.uniform(3, 7)):
            x, velocity = rng.choice([-1, 1]) * rng.uniform(5.5, 8), rng.choice([-0.06, 0.0, 0.06])
            self._upright(people[rng.integers(8)], x, z, (0.7, 1.75), self._path(z=velocity * t))
        for number in range(4 + len(t) // 10):
            rides = self._classes > _BICYCLIST and number % 2 == 0
            texture, size = (riders[number % 3], (1.8, 1.8)) if rides else (people[number % 8], (0.7, 1.75))
            velocity = rng.choice([-1, 1]) * (rng.uniform(0.12, 0.2) if rides else rng.uniform(0.07, 0.12))
            # Far enough ahead to have left the camera's lane, 6 m on, before the camera arrives.
            meeting = rng.integers(len(t))
            z = speed * meeting + 8 + 6 * speed / abs(velocity) + rng.uniform(0, 5)
            x = np.clip(rng.uniform(-3, 3) + velocity * (t - meeting), -8, 8)
            self._upright(texture, 0.0, float(z), size, self._path(x=x))

    def raster(self, t: int) -> _Raster:
        """What the camera sees in frame t, before the effects of the camera itself."""
        height, width = self._size
        homographies, depths = self._project(t)
        colour, labels = np.zeros((height, width, 3), np.uint8), np.full((height, width), _SKY, np.uint8)
        raster = _Raster(colour, labels, np.zeros((height, width), np.uint16), {0: (0, 0, width, height)}, homographies)
        boxes, sizes, reaches_behind = self._outlines(homographies)
        # The sort is stable: backdrop and ground keep the order they were added in.
        order = np.lexsort((np.where(self._ranks == _OBJECT, -depths, 0), self._ranks))
        order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
        inverses = np.linalg.inv(homographies[order])
        views = zip(inverses, boxes[order].tolist(), sizes[order].tolist(), reaches_behind[order], strict=True)
        for number, view in zip(order.tolist(), views, strict=True):
            _paint(raster, self._surfaces[number], *view)
        return raster

    def _project(self, t: int) -> tuple[Array, Array]:
        """Homographies (N, 3, 3) from [0, 1]² on every surface to pixels, and the z (N,) that orders objects."""
        columns, depths = self._columns.copy(), self._depths.copy()
        for number, path in self._paths:
            columns[number, :, 2] += path[t]
            depths[number] += path[t, 2]
        columns[:, :, 2] -= self._camera.positions[t]
        return self._camera.projection(t) @ columns, depths

    def _outlines(self, homographies: Array) -> tuple[Array, Array, Array]:
        """Boxes (N, 4) of N surfaces, empty if out of view, sizes (N, 2), and which of them reach behind the camera."""
        height, width = self._size
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
    raster: _Raster, surface: _Surface, inverse: Array, box: list[int], size: tuple[float, float], reaches_behind: bool
) -> None:
    """Put a surface over what is in the raster; ``inverse`` leads from pixels to [0, 1]² over the surface."""
    x0, y0, x1, y1 = box
    inverse = inverse @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
    labels = _warp(surface.texture.labels, inverse, (x1 - x0, y1 - y0), True)
    if reaches_behind:
        # What lies behind the camera projects into the picture as well, mirrored.
        a, b, c = inverse[2]
        labels[a * np.arange(x1 - x0) + b * np.arange(y1 - y0)[:, None] + c <= 0] = _HIDDEN
    shown = labels != _HIDDEN
    if not shown.any():
        return
    colours = _warp(surface.texture.colours(size), inverse, (x1 - x0, y1 - y0), False)
    area, mask = np.s_[y0:y1, x0:x1], shown.view(np.uint8)
    cv2.copyTo(colours, mask, raster.colour[area])
    cv2.copyTo(labels, mask, raster.labels[area])
    raster.owners[area][shown] = surface.plane
    past = raster.boxes.get(surface.plane, (x0, y0, x1, y1))
    raster.boxes[surface.plane] = min(x0, past[0]), min(y0, past[1]), max(x1, past[2]), max(y1, past[3])


def _warp(texture: Array, inverse: Array, size: tuple[int, int], is_label: bool) -> Array:
    """Sample a texture; ``inverse`` leads from pixels to [0, 1]² over it, ``size`` is (width, height)."""
    height, width = texture.shape[:2]
    to_texels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]]) @ inverse
    border = cv2.BORDER_CONSTANT if is_label else cv2.BORDER_REPLICATE
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR)
    return cv2.warpPerspective(texture, to_texels, size, flags=flags, borderMode=border, borderValue=_HIDDEN)
