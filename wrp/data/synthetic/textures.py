"""Textures of the procedural street scenes: the look of every kind of surface, and the class of each texel."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]

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
ROAD, BUILDING, SKY, PAVEMENT, TREE, POLE, CAR, PERSON, SIGN, FENCE, BICYCLIST, GRASS = range(len(CLASSES))
TRANSPARENT = 255  # label of a transparent texel

# Metres; the road is centred on x = 0.
TILE = 12.0  # along the street, per building and per piece of ground
ROAD_EDGE, GROUND_EDGE = 5.0, 12.0  # x of the kerb and of the end of the paved ground
_GLASS, _TYRE = (35, 40, 48), (25, 25, 28)


class Texture:
    """Labels (h, w) uint8 of a plane and its colours (h, w, 3) uint8, in several resolutions.

    Example:
        >>> texture = Texture(np.zeros((64, 32, 3), np.uint8), np.full((64, 32), CAR, np.uint8))
        >>> texture.colours(seen_size=(8, 16)).shape
        (16, 8, 3)
    """

    def __init__(self, colours: Array, labels: Array) -> None:
        self.labels = labels
        self._levels = {(0, 0): colours}

    def colours(self, seen_size: tuple[float, float]) -> Array:
        """Return the colours at about the resolution (across, down) at which they are seen, to avoid flicker."""
        height, width = self.labels.shape
        ratios = width / max(seen_size[0], 1), height / max(seen_size[1], 1)
        key = max(0, round(math.log2(ratios[0]))), max(0, round(math.log2(ratios[1])))
        if key not in self._levels:
            size = max(1, width >> key[0]), max(1, height >> key[1])
            self._levels[key] = cv2.resize(self._levels[0, 0], size, interpolation=cv2.INTER_AREA)
        return self._levels[key]


class Painter:
    """Paints the textures of a scene.

    Positions are fractions of a texture's width and height, from its top left. What is painted takes the label given to
    :meth:`start` unless another is named; a texture starts out transparent or, with ``opaque``, labelled everywhere.

    Example:
        >>> painter = Painter(np.random.default_rng(0), num_classes=8, texels_per_metre=10)
        >>> np.unique(painter.person().labels).tolist() == [PERSON, 255]
        True
    """

    def __init__(self, rng: np.random.Generator, num_classes: int, texels_per_metre: float) -> None:
        self._rng, self._num_classes, self._density = rng, num_classes, texels_per_metre

    def start(self, width: float, height: float, fill: Colour, label: int, opaque: bool = False) -> None:
        """Begin a texture of ``width`` by ``height`` metres, at the density of an object nearby."""
        self._size = np.maximum(np.rint(np.array((width, height)) * self._density), 2).astype(int)
        self._label = label
        shape = tuple(self._size[::-1].tolist())
        self._colours: Array = np.full((*shape, 3), fill, np.uint8)
        self._labels: Array = np.full(shape, label if opaque else TRANSPARENT, np.uint8)

    def polygon(self, points: Any, colour: Colour, label: int | None = None) -> None:
        """Fill the polygon through ``points``, a sequence of (x, y)."""
        corners = np.rint(np.asarray(points) * self._size).astype(np.int32)
        cv2.fillPoly(self._colours, [corners], colour)
        cv2.fillPoly(self._labels, [corners], self._label if label is None else label)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, label: int | None = None) -> None:
        """Fill a rectangle given by its left, top, right and bottom."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, label)

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: Colour, label: int | None = None) -> None:
        """Fill an ellipse with its centre at (x, y)."""
        angle = np.linspace(0, 2 * np.pi, 20)
        self.polygon(np.stack((x + wide / 2 * np.cos(angle), y + high / 2 * np.sin(angle)), 1), colour, label)

    def finish(self, grain: float) -> Texture:
        """Return the texture, with its brightness varied at random by a ratio of about ``grain``."""
        width, height = self._size.tolist()
        noise = np.zeros((height, width), np.float32)
        for cell in (2, 8, 32):
            coarse = self._rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
            noise += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        return Texture(np.clip(self._colours * (1 + grain * noise)[..., None], 0, 255).astype(np.uint8), self._labels)

    def tint(self, colour: Colour, spread: float = 14) -> Colour:
        """Return a random colour near the given one."""
        shift = self._rng.normal(0, spread) + self._rng.normal(0, spread / 3, 3)
        red, green, blue = np.clip(np.array(colour) + shift, 5, 250).astype(int).tolist()
        return red, green, blue

    def pick(self, *colours: Colour) -> Colour:
        """Return a random colour near one of the given ones."""
        return self.tint(colours[self._rng.integers(len(colours))])

    def sky(self) -> Texture:
        """Paint sky with clouds."""
        self.start(4, 3, self.tint((170, 195, 225), 8), SKY, opaque=True)
        for x, y, wide, high in self._rng.uniform((0, 0, 0.03, 0.01), (1, 1, 0.12, 0.04), (30, 4)):
            self.ellipse(x, y, wide, high, self.tint((215, 222, 230), 8))
        return self.finish(0.006)

    def skyline(self) -> Texture:
        """Paint far buildings and trees, transparent above."""
        self.start(15, 1.2, (150, 160, 170), BUILDING)
        self.box(0, 0.6, 1, 1, (125, 125, 120))
        for x in np.arange(0, 1, 0.012):
            top, wide = self._rng.uniform((0.1, 0.008), (0.55, 0.03))
            if self._rng.random() < 0.6:
                self.box(x, top, x + wide, 1, self.pick((150, 130, 115), (140, 140, 145)))
            else:
                self.ellipse(x, 0.62, wide, 0.8 - top, self.pick((70, 100, 65)), TREE)
        return self.finish(0.03)

    def facade(self) -> Texture:
        """Paint the front of a building."""
        wall = self.pick((165, 110, 85), (185, 165, 135), (150, 140, 130), (175, 140, 110))
        self.start(TILE / 2, 4, wall, BUILDING, opaque=True)
        columns, storeys = self._rng.integers((3, 2), (7, 5))
        for x in (np.arange(columns) + 0.5) / columns:
            for y in (np.arange(storeys) + 0.5) / storeys:
                for share, colour in ((0.22, self.tint((205, 200, 190))), (0.17, self.tint((60, 70, 85)))):
                    wide, high = share / columns, share / storeys
                    self.box(x - wide, y - high, x + wide, y + high, colour)
        self.box(0, 0, 1, 0.03, self.tint((90, 75, 70)))
        return self.finish(0.04)

    def street(self) -> Texture:
        """Paint the ground between the buildings on both sides; the top of the texture is the far end."""
        metre = 1 / (2 * GROUND_EDGE)
        self.start(1.4 * GROUND_EDGE, 0.7 * TILE, self.pick((160, 150, 145)), PAVEMENT, opaque=True)
        for y in np.arange(0, 1, 0.125):
            self.box(0, y, 1, y + 0.008, self.tint((125, 118, 115), 6))
        if self._num_classes > GRASS:
            for x in (0, 1 - 4 * metre):
                self.box(x, 0, x + 4 * metre, 1, self.tint((120, 140, 60)), GRASS)
        kerb = ROAD_EDGE * metre
        self.box(0.5 - kerb - 0.2 * metre, 0, 0.5 + kerb + 0.2 * metre, 1, (190, 185, 180))
        self.box(0.5 - kerb, 0, 0.5 + kerb, 1, self.tint((88, 88, 95), 3), ROAD)
        self.box(0.5 - 0.1 * metre, 0.1, 0.5 + 0.1 * metre, 0.5, (215, 215, 210), ROAD)
        return self.finish(0.05)

    def crossing(self) -> Texture:
        """Paint the ground of a crossing with a side street, twelve tiles wide."""
        asphalt, kerb = self.tint((88, 88, 95), 3), ROAD_EDGE / (12 * TILE)
        self.start(4 * TILE, 0.3 * TILE, self.pick((160, 150, 145)), PAVEMENT, opaque=True)
        self.box(0, 0.2, 1, 0.8, asphalt, ROAD)
        self.box(0.5 - kerb, 0, 0.5 + kerb, 1, asphalt, ROAD)
        return self.finish(0.05)

    def land(self) -> Texture:
        """Paint plain ground, for under and beside the street."""
        label, colour = (GRASS, (120, 140, 60)) if self._num_classes > GRASS else (PAVEMENT, (160, 150, 145))
        self.start(4, 4, self.tint(colour), label, opaque=True)
        return self.finish(0.05)

    def fence(self) -> Texture:
        """Paint a fence of upright boards."""
        self.start(0.7 * TILE, 1.2, (60, 60, 55), FENCE)
        wood = self.pick((120, 85, 50), (75, 90, 85))
        self.box(0, 0.12, 1, 1, self.tint((55, 50, 45), 5))
        for x in np.arange(0.01, 1, 0.025):
            self.box(x, self._rng.uniform(0, 0.08), x + 0.015, 1, self.tint(wood, 6))
        return self.finish(0.05)

    def tree(self) -> Texture:
        """Paint a tree with its trunk, 4 m x 6 m."""
        green = self.pick((60, 90, 40), (85, 105, 45), (70, 85, 55))
        self.start(4, 6, green, TREE)
        self.box(0.46, 0.4, 0.54, 1, self.tint((75, 60, 45)))
        for angle, radius, wide in self._rng.uniform((0, 0, 0.12), (2 * np.pi, 0.36, 0.28), (70, 3)):
            x, y = 0.5 + radius * np.cos(angle), 0.34 + 0.75 * radius * np.sin(angle)
            self.ellipse(x, y, wide, 0.6 * wide, self.tint(green, 12))
        return self.finish(0.12)

    def pole(self) -> Texture:
        """Paint a street lamp, 1.6 m x 6 m."""
        grey = self.pick((75, 78, 75), (105, 105, 100))
        self.start(1.6, 6, grey, POLE)
        self.box(0.47, 0, 0.53, 1, grey)
        self.box(0, 0, 0.5, 0.018, grey)
        return self.finish(0.02)

    def sign(self) -> Texture:
        """Paint a traffic sign on its post, 0.9 m x 3 m; the post alone if there is no class for signs."""
        self.start(0.9, 3, (90, 90, 90), SIGN)
        self.box(0.42, 0.1, 0.58, 1, self.tint((110, 110, 108)), POLE)
        if self._num_classes > SIGN:
            colour = self.pick((200, 35, 35), (35, 75, 190), (225, 190, 40))
            if self._rng.random() < 0.5:
                self.ellipse(0.5, 0.16, 1, 0.3, colour)
            else:
                self.box(0, 0.02, 0.99, 0.3, colour)
            self.box(0.25, 0.13, 0.75, 0.19, (235, 235, 235))
        return self.finish(0.02)

    def car(self) -> tuple[Texture, Texture]:
        """Paint one car from behind (1.8 m x 1.45 m) and from its side (4.2 m x 1.45 m)."""
        paint = self.pick((170, 30, 35), (35, 60, 140), (205, 205, 210), (40, 42, 45), (190, 150, 40))
        lamps = self.pick((200, 40, 30), (230, 220, 190))
        self.start(1.8, 1.45, paint, CAR)
        for x in (0.05, 0.78):
            self.box(x, 0.7, x + 0.17, 0.99, _TYRE)
        self.polygon([(0.2, 0), (0.8, 0), (0.95, 0.42), (0.99, 0.85), (0.01, 0.85), (0.05, 0.42)], paint)
        self.polygon([(0.24, 0.06), (0.76, 0.06), (0.86, 0.38), (0.14, 0.38)], _GLASS)
        for x in (0.04, 0.82):
            self.box(x, 0.48, x + 0.14, 0.6, lamps)
        self.box(0.36, 0.65, 0.64, 0.75, (225, 225, 215))
        back = self.finish(0.03)
        self.start(4.2, 1.45, paint, CAR)
        roof = [(0, 0.45), (0.12, 0.42), (0.25, 0), (0.7, 0), (0.85, 0.42), (1, 0.52), (1, 0.82), (0, 0.82)]
        self.polygon(roof, paint)
        self.polygon([(0.17, 0.4), (0.27, 0.06), (0.46, 0.06), (0.46, 0.4)], _GLASS)
        self.polygon([(0.49, 0.4), (0.49, 0.06), (0.68, 0.06), (0.8, 0.4)], _GLASS)
        for x in (0.2, 0.8):
            self.ellipse(x, 0.78, 0.16, 0.44, _TYRE)
            self.ellipse(x, 0.78, 0.07, 0.2, (150, 150, 150))
        return back, self.finish(0.03)

    def person(self) -> Texture:
        """Paint a person on foot, 0.7 m x 1.75 m."""
        self.start(0.7, 1.75, (60, 50, 60), PERSON)
        shirt = self.pick((190, 60, 60), (60, 90, 160), (205, 190, 160), (120, 60, 130))
        self._body(0.5, 1.0, shirt, self.pick((40, 45, 70), (60, 50, 45), (95, 90, 80)))
        return self.finish(0.04)

    def bicyclist(self) -> Texture:
        """Paint a person on a bicycle, 1.8 m x 1.8 m."""
        self.start(1.8, 1.8, (50, 50, 50), BICYCLIST)
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
