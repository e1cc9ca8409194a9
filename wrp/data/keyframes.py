"""Pick the frames of a new clip to label first: evenly over its scenes, or those that look most different (ours)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from torch import Tensor
from torch.nn import functional

from wrp.errors import DataError
from wrp.flow.dis import DIS
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.cuts import is_cut, may_be_cut
from wrp.io.images import read_image
from wrp.io.progress import progress
from wrp.structures import Frame

# Height and width of the small pictures by which frames are compared, in pixels.
SIDE = 16


@dataclass(frozen=True)
class Looks:
    """What the frames of a clip look like.

    Attributes:
        small: The frames, reduced to small pictures: (N, D) float32 in [0, 1].
        cuts: Indices of the frames behind which there is a cut, in temporal order.

    Example:
        >>> Looks(np.zeros((9, 3), np.float32), cuts=(3,)).scenes
        [(0, 4), (4, 9)]
    """

    small: np.ndarray
    cuts: tuple[int, ...]

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """First frame of each scene, and the frame behind its last one."""
        return list(pairwise([0, *(cut + 1 for cut in self.cuts), len(self.small)]))


def look_at(frames: Sequence[Frame]) -> Looks:
    """Read all frames of a clip, and find its cuts.

    Args:
        frames: The frames in temporal order.

    Raises:
        DataError: If one cannot be read, or they have different sizes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [Path(folder, f"{i}.png") for i in range(3)]
        ...     for i, path in enumerate(paths):
        ...         Image.new("RGB", (32, 24), (40 * i, 0, 0)).save(path)
        ...     looks = look_at([Frame(path.stem, path) for path in paths])
        >>> looks.small.shape, looks.cuts
        ((3, 768), ())
    """
    estimator = DIS(preset="medium", scale=1.0)
    small, cuts = list[np.ndarray](), list[int]()

    def images() -> Iterator[Tensor]:
        size = None
        for frame in progress(frames, desc="Reading frames", unit="frame"):
            image = read_image(frame.image)[None]
            if image.shape != (size := size or image.shape):
                raise DataError(f"{frame.image} has another size than the frames before it")
            small.append(_small(image))
            yield image

    for i, (before, earlier, later, behind) in enumerate(_neighbours(images())):
        if may_be_cut(earlier, later, before, behind).item():
            flow = NeighbourFlow(estimator(earlier, later), estimator(later, earlier))
            if is_cut(earlier, later, flow, before, behind).item():
                cuts.append(i)
    return Looks(np.stack(small), tuple(cuts))


def _neighbours(images: Iterable[Tensor]) -> Iterator[tuple[Tensor | None, Tensor, Tensor, Tensor | None]]:
    """Yield each two neighbouring images, with the one before them and the one behind them, None at an end."""
    before, earlier, later = None, None, None
    for image in chain(images, [None]):
        if earlier is not None and later is not None:
            yield before, earlier, later, image
        before, earlier, later = earlier, later, image


def _small(image: Tensor) -> np.ndarray:
    picture: np.ndarray = functional.interpolate(image.float() / 255, (SIDE, SIDE), mode="area").flatten().numpy()
    return picture


def pick_keyframes(looks: Looks, count: int, by: str = "even") -> list[int]:
    """Pick the frames of a clip to label.

    No label is propagated across a cut, so each scene gets a frame first; where there are more scenes than frames, the
    longest scenes do. ``even`` spreads the others evenly, first and last frames included. ``diverse`` takes, again and
    again, the frame that looks least like all that are picked.

    Args:
        looks: The frames.
        count: Number of frames to pick.
        by: A name in :data:`~wrp.options.PICKS`.

    Returns:
        Indices of the frames, in temporal order; fewer than ``count`` only if there are no more frames.

    Example:
        >>> still = np.zeros((9, 3), np.float32)
        >>> pick_keyframes(Looks(still, cuts=()), 3), pick_keyframes(Looks(still, cuts=(5,)), 3)
        ([0, 4, 8], [0, 5, 7])
        >>> still[6] = 1
        >>> pick_keyframes(Looks(still, cuts=()), 2, by="diverse")
        [4, 6]
    """
    scenes = sorted(looks.scenes, key=lambda scene: scene[0] - scene[1])[:count]
    count = min(count, len(looks.small))
    if by == "diverse":
        return _diverse(looks.small, [(start + stop - 1) // 2 for start, stop in scenes], count)
    numbers = [1] * len(scenes)
    for _ in range(count - len(scenes)):
        gains = [
            (stop - start) / number if number < stop - start else 0.0
            for (start, stop), number in zip(scenes, numbers, strict=True)
        ]
        numbers[int(np.argmax(gains))] += 1
    picked = [_spread(scene, number) for scene, number in zip(scenes, numbers, strict=True)]
    return sorted(index for of_scene in picked for index in of_scene)


def _spread(scene: tuple[int, int], number: int) -> list[int]:
    """Return so many frames of a scene at even distances: its middle, or its first and last frame and others."""
    start, stop = scene
    if number == 1:
        return [(start + stop - 1) // 2]
    return [round(float(at)) for at in np.linspace(start, stop - 1, number)]


def _diverse(small: np.ndarray, picked: list[int], count: int) -> list[int]:
    """Add the frame farthest from all that are picked, until there are enough (greedy k-centre)."""
    distances = np.min([_distances(small, i) for i in picked], axis=0)
    while len(picked) < count:
        distances[picked] = -1
        picked.append(int(distances.argmax()))
        distances = np.minimum(distances, _distances(small, picked[-1]))
    return sorted(picked)


def _distances(small: np.ndarray, index: int) -> np.ndarray:
    found: np.ndarray = np.abs(small - small[index]).mean(1)
    return found
