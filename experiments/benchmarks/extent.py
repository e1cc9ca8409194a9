"""How much the benchmarks measure: in the quick run, and for the published tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clips import CITYSCAPES, CLASSES, SIZES
from growth import LARGE, Case

Size = tuple[int, int]


@dataclass(frozen=True)
class Extent:
    """How much is measured; sizes are heights and widths in pixels.

    Attributes:
        scene: Frames of the generated scene, and their size.
        every: Distances K between labels.
        seeds: Numbers of the first label that is kept.
        methods: Methods without networks; empty: all.
        propagation: Frame sizes, and number of frames of the interval.
        votes: Frame sizes and K.
        steps: Training steps per run, number of runs, and size of the crops.
        loader: Greatest number of frames, and number of runs.
        writer: Frame sizes, number of frames, and number of runs.
        growth: Cases, by the quantity that grows.
        jobs: Frames of each of two clips, and their size.
        startup: Number of runs.
        gpu: Frame size.
    """

    scene: tuple[int, Size]
    every: tuple[int, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    propagation: tuple[tuple[Size, ...], int]
    votes: tuple[tuple[Size, int], ...]
    steps: tuple[int, int, Size]
    loader: tuple[int, int]
    writer: tuple[tuple[Size, ...], int, int]
    growth: dict[str, tuple[Case, ...]]
    jobs: tuple[int, Size]
    startup: int
    gpu: Size


def cases(lengths: Sequence[int], of_length: Size, sizes: Sequence[Size], frames: int) -> dict[str, tuple[Case, ...]]:
    """Cases with longer intervals, larger frames, and more classes."""
    return {
        "frames": tuple(Case("motion", length, *of_length, CLASSES) for length in lengths),
        "pixels": tuple(Case("motion", frames, *size, CLASSES) for size in sizes),
        "classes": tuple(Case("motion", frames, *SIZES[0], classes) for classes in (CLASSES, CITYSCAPES, 150)),
    }


QUICK = Extent(
    scene=(25, (256, 448)),
    every=(2, 6, 12),
    seeds=(0,),
    methods=("copy", "motion", "vote-once", "vote"),
    propagation=(SIZES, 9),
    votes=((SIZES[0], 10), (SIZES[0], 25), (SIZES[1], 10)),
    steps=(20, 3, (192, 288)),
    loader=(25, 3),
    writer=(SIZES, 12, 3),
    growth=cases((30, 100, 300), (180, 240), (*SIZES, LARGE), 8),
    jobs=(25, (180, 240)),
    startup=3,
    gpu=LARGE,
)
FULL = replace(
    QUICK,
    scene=(49, (256, 448)),
    every=(2, 5, 10, 25),
    seeds=(0, 1, 2),
    methods=(),
    propagation=(SIZES, 26),
    votes=(*((SIZES[0], every) for every in (10, 25, 50)), *((SIZES[1], every) for every in (10, 25))),
    steps=(40, 5, (192, 288)),
    loader=(400, 3),
    writer=((*SIZES, LARGE), 26, 5),
    growth=cases((30, 100, 300, 1000), SIZES[0], (*SIZES, LARGE), 20),
    jobs=(49, (256, 448)),
    startup=7,
)
