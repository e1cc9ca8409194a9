"""What is done for each of many labels and clips takes time in proportion to their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clips import LABEL_MAP, bare_clip
from wrp.data.holdout import divide
from wrp.data.index import ClipIndex, hold_out_labels, intervals, keep_labels, select_clips
from wrp.data.items import HeldOutItems, IntervalItems, WindowItems
from wrp.options import SelectArgs, ValArgs
from wrp.propagation.estimate import unlabelled_distances
from wrp.report.markdown import pictured_frame
from wrp.structures import Clip

FRAMES, CLIPS = 20_000, 4_000
EVERY_OTHER = bare_clip(FRAMES, range(0, FRAMES, 2))
HALF_HELD_OUT = bare_clip(FRAMES, range(0, FRAMES, 2), range(1, FRAMES, 2))
MANY = ClipIndex(Path("many"), "folder", LABEL_MAP, tuple(bare_clip(4, (0,), name=f"clip{i}") for i in range(CLIPS)))
NAMES = [clip.name for clip in MANY.clips]


def spans() -> list[tuple[int, int]]:
    items = WindowItems([EVERY_OTHER], LABEL_MAP)
    return [items.span(clip, target) for clip, target in items.windows]


@pytest.mark.parametrize(
    "work",
    [
        lambda: hold_out_labels(bare_clip(FRAMES, range(FRAMES)), 2),
        lambda: keep_labels(bare_clip(FRAMES, range(FRAMES)), {f"{i:05d}" for i in range(0, FRAMES, 2)}),
        lambda: intervals(EVERY_OTHER),
        lambda: unlabelled_distances(EVERY_OTHER),
        lambda: pictured_frame(EVERY_OTHER),
        lambda: pictured_frame(HALF_HELD_OUT),
        lambda: [HALF_HELD_OUT.distance(i) for i in HALF_HELD_OUT.held_out],
        lambda: IntervalItems([HALF_HELD_OUT], LABEL_MAP, with_held_out=True).costs,
        lambda: HeldOutItems([EVERY_OTHER], LABEL_MAP),
        spans,
        lambda: select_clips(MANY, SelectArgs(clips=NAMES)),
        lambda: divide(MANY, ValArgs(clips=NAMES[::2]), lambda _: MANY),
        lambda: divide(MANY, ValArgs(ratio=0.5), lambda _: MANY),
        lambda: MANY.without(NAMES[::2]),
    ],
)
def test_many_labels_take_no_time(work: Callable[[], Any]) -> None:
    started = time.process_time()
    work()
    assert time.process_time() - started < 3  # a search through all of them for each takes ten and more


def test_a_third_of_many_keyframes_is_held_out_evenly() -> None:
    few, many = (HeldOutItems([bare_clip(n, range(n))], LABEL_MAP).held_out for n in (62, 902))
    assert [at for _, at in few] == list(range(1, 61))
    assert [at for _, at in many] == list(range(2, 901, 3))


def test_the_nearest_keyframe_is_found() -> None:
    for keyframes in ((0,), (3,), (0, 8), (1, 2, 7), ()):
        clip = bare_clip(9, keyframes)
        for index in range(9):
            assert clip.distance(index) == min((abs(index - keyframe) for keyframe in keyframes), default=0)
    assert isinstance(clip, Clip)
