"""The world of the procedural street scenes: its surfaces, where they stand, and how they and the camera move.

Every surface is a textured plane. World axes: x right, y down, z forward, in metres; the ground is y = 0, the road is
centred on x = 0, and the camera starts at z = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wrp.data.synthetic.textures import BICYCLIST, FENCE, GROUND_EDGE, TILE, Array, Painter, Texture

Point = tuple[float, float, float]

_VIEW = 85.0  # street built beyond the last camera position
_FACADE = 9.5  # x of the buildings
_LANE = 1.6  # x of the camera; the other lane is mirrored
_PARKED = 4.1  # x of parked cars
_BACKDROP, _GROUND, _OBJECT = range(3)  # painting order; objects are painted from far to near


class Camera:
    """A camera that drives straight, drives with swaying yaw, or stands and pans.

    Example:
        >>> camera = Camera(np.random.default_rng(0), num_frames=5, height=32, width=48)
        >>> camera.positions.shape, camera.projection(0).shape
        ((5, 3), (3, 3))
    """

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
        """Return the (3, 3) matrix from directions in the world to homogeneous pixels of frame t."""
        (cy, cp, cr), (sy, sp, sr) = np.cos(self._angles[t]), np.sin(self._angles[t])
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return self._intrinsics @ roll @ pitch @ yaw


class Surface(NamedTuple):
    """A texture at a place in the world.

    Example:
        >>> texture = Texture(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))
        >>> Surface(texture, np.eye(3), rank=2, depth=10.0, plane=0, path=None).texture.labels.shape
        (4, 6)
    """

    texture: Texture
    columns: Array  # (3, 3) metres: along the texture's width, along its height, its top left corner
    rank: int  # backdrop, ground or object
    depth: float  # z, by which objects are painted from far to near
    plane: int  # number of the first surface in this plane; all of them move alike
    path: Array | None  # (T, 3) metres added to the position, for what moves on its own


class Scene:
    """The surfaces of a street, chosen and moved at random.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> camera, painter = Camera(rng, num_frames=2, height=32, width=48), Painter(rng, 8, texels_per_metre=32)
        >>> scene = Scene(rng, camera, painter, num_classes=8)
        >>> homographies, order = scene.view(0)
        >>> homographies.shape == (len(scene.surfaces), 3, 3), order.shape == (len(scene.surfaces),)
        (True, True)
    """

    def __init__(self, rng: np.random.Generator, camera: Camera, painter: Painter, num_classes: int) -> None:
        self._rng, self._camera, self._classes = rng, camera, num_classes
        self._frames = np.arange(len(camera.positions))
        self.surfaces: list[Surface] = []
        end = float(camera.positions[-1, 2]) + _VIEW
        self._build_backdrop(painter)
        self._build_street(painter, end)
        self._build_furniture(painter, end)
        self._build_traffic(painter, end)
        self._build_people(painter, end)
        self._ranks = np.array([surface.rank for surface in self.surfaces])
        self._depths = np.array([surface.depth for surface in self.surfaces])
        self._columns = np.stack([surface.columns for surface in self.surfaces])
        self._paths = [(n, surface.path) for n, surface in enumerate(self.surfaces) if surface.path is not None]

    def view(self, t: int) -> tuple[Array, Array]:
        """Return homographies (N, 3, 3) from [0, 1]² on each surface to pixels of frame t, and the painting order (N,).

        The third component of a projected point is its depth in metres. The surface painted last is seen in front.
        """
        columns, depths = self._columns.copy(), self._depths.copy()
        for number, path in self._paths:
            columns[number, :, 2] += path[t]
            depths[number] += path[t, 2]
        columns[:, :, 2] -= self._camera.positions[t]
        # The sort is stable: backdrop and ground keep the order they were added in.
        order = np.lexsort((np.where(self._ranks == _OBJECT, -depths, 0), self._ranks))
        return self._camera.projection(t) @ columns, order

    def _add(
        self,
        texture: Texture,
        corner: Point,
        across: Point,
        down: Point,
        rank: int = _OBJECT,
        depth: float = 0.0,
        plane: int | None = None,
        path: Array | None = None,
    ) -> int:
        number = len(self.surfaces) if plane is None else plane
        columns = np.array((across, down, corner), np.float64).T
        self.surfaces.append(Surface(texture, columns, rank, depth, number, path))
        return number

    def _path(self, x: Any = 0.0, z: Any = 0.0) -> Array:
        path = np.zeros((len(self._frames), 3))
        path[:, 0], path[:, 2] = x, z
        return path

    def _flat(self, texture: Texture, half_width: float, z0: float, z1: float, plane: int | None = None) -> int:
        return self._add(texture, (-half_width, 0, z1), (2 * half_width, 0, 0), (0, 0, z0 - z1), _GROUND, plane=plane)

    def _along(
        self,
        texture: Texture,
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
        self, texture: Texture, x: float, z: float, size: tuple[float, float], path: Array | None = None
    ) -> None:
        """Stand a texture on the ground, centred on x, facing down the street."""
        width, height = size
        self._add(texture, (x - width / 2, -height, z), (width, 0, 0), (0, height, 0), depth=z, path=path)

    def _car(self, textures: tuple[Texture, Texture], x: float, z: float, path: Array | None = None) -> None:
        if abs(x - _LANE) > 1:  # the side of a car straight in front is not seen
            self._along(textures[1], x + 0.9 * np.sign(_LANE - x), z, 4.2, 1.45, z + 0.01, path)
        self._upright(textures[0], x, z, (1.8, 1.45), path)

    def _build_backdrop(self, painter: Painter) -> None:
        # It moves with the camera, as if infinitely far away.
        path = self._camera.positions
        self._add(painter.sky(), (-3, -2.5, 1), (6, 0, 0), (0, 4, 0), _BACKDROP, path=path)
        self._add(painter.skyline(), (-3, -0.09, 1), (6, 0, 0), (0, 0.2, 0), _BACKDROP, path=path)

    def _build_street(self, painter: Painter, end: float) -> None:
        rng = self._rng
        # Copies of few textures are spread along the street: memory does not grow with the length of the clip.
        facades, fences = [painter.facade() for _ in range(8)], [painter.fence() for _ in range(2)]
        streets, crossing = [painter.street() for _ in range(3)], painter.crossing()
        ground = self._flat(painter.land(), 6 * TILE, -TILE, end + TILE)
        period, first = rng.integers(4, 7), rng.integers(1, 4)
        for number, z in enumerate(np.arange(-TILE, end, TILE)):
            if number % period == first:
                self._flat(crossing, 6 * TILE, z, z + TILE, ground)
                self._cross_traffic(painter, z + TILE / 2)
                continue
            self._flat(streets[number % 3], GROUND_EDGE, z, z + TILE, ground)
            for side in (-1, 1):
                if rng.random() < 0.85:
                    x, height = side * (_FACADE + rng.choice([0.0, 0.8, 1.6])), rng.uniform(5, 11)
                    facade = facades[rng.integers(8)]
                    # The front is painted behind all that stands between its ends, the end wall behind the next front.
                    self._along(facade, x, z, TILE, height, z + TILE)
                    self._upright(facade, x + side * TILE / 2, z + 0.01, (TILE, height))
                if self._classes > FENCE and (number % 4 == 3 or rng.random() < 0.35):
                    self._along(fences[rng.integers(2)], side * (_FACADE - 0.3), z, TILE, 1.8, z + TILE)

    def _build_furniture(self, painter: Painter, end: float) -> None:
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

    def _build_traffic(self, painter: Painter, end: float) -> None:
        """Add cars in the other lane, oncoming or overtaking, and perhaps one in front of the camera."""
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
            lead = rng.uniform(9, 14) + 2.5 * np.sin(2 * np.pi * t / 60 + rng.uniform(0, 6))
            self._car(cars[0], _LANE, 0.0, self._path(z=speed * t + lead))

    def _cross_traffic(self, painter: Painter, z: float) -> None:
        """Add a car that crosses on a side street, while the camera is well before it."""
        distance = z - self._camera.positions[:, 2]
        meetings = np.flatnonzero((distance > 12) & (distance < 60))
        if len(meetings) and self._rng.random() < 0.7:
            velocity = self._rng.choice([-1, 1]) * self._rng.uniform(0.18, 0.3)
            path = self._path(x=velocity * (self._frames - self._rng.choice(meetings)))
            self._upright(painter.car()[1], 0.0, z, (4.2, 1.45), path)

    def _build_people(self, painter: Painter, end: float) -> None:
        """Add people along the pavements, and people and bicyclists who cross the road in front of the camera."""
        rng, t, speed = self._rng, self._frames, self._camera.speed
        people, riders = [painter.person() for _ in range(8)], [painter.bicyclist() for _ in range(3)]
        for z in np.arange(rng.uniform(2, 6), end, rng.uniform(3, 7)):
            x, velocity = rng.choice([-1, 1]) * rng.uniform(5.5, 8), rng.choice([-0.06, 0.0, 0.06])
            self._upright(people[rng.integers(8)], x, z, (0.7, 1.75), self._path(z=velocity * t))
        for number in range(4 + len(t) // 10):
            rides = self._classes > BICYCLIST and number % 2 == 0
            texture, size = (riders[number % 3], (1.8, 1.8)) if rides else (people[number % 8], (0.7, 1.75))
            velocity = rng.choice([-1, 1]) * (rng.uniform(0.12, 0.2) if rides else rng.uniform(0.07, 0.12))
            # So far in front that they have left the camera's lane, 6 m on, before the camera arrives.
            meeting = rng.integers(len(t))
            z = speed * meeting + 8 + 6 * speed / abs(velocity) + rng.uniform(0, 5)
            x = np.clip(rng.uniform(-3, 3) + velocity * (t - meeting), -8, 8)
            self._upright(texture, 0.0, float(z), size, self._path(x=x))
