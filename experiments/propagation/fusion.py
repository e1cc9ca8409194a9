"""Measure the constants of the two-keyframe blend and of the motion-error mask (wrp/geometry/fusion.py).

Each row changes one constant from its default; the first column is the mean mIoU over the settings in the others.
Without --teacher, the rows vary the blend and score motion-only labels; with --teacher, they vary the motion-error mask
and score warp-inpaint.

    python experiments/propagation/fusion.py camvid --every 5 10 25 50
    python experiments/propagation/fusion.py camvid --every 25 --teacher DIR/teacher.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.geometry import fusion
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.tables import markdown_table
from wrp.metrics.segmentation import confusion, mean_iou
from wrp.options import SelectArgs
from wrp.propagation.methods.base import Known

Variant = Callable[[Known, int], Tensor]


def blend(frame: Known, num_classes: int) -> Tensor:
    return fusion.blend(frame.warped, fusion.blend_weights(frame.warped), num_classes)


def nearest(frame: Known, num_classes: int) -> Tensor:
    near = fusion.prefer_nearest(frame.warped)
    return fusion.blend(near, fusion.blend_weights(near), num_classes)


def previous(frame: Known, num_classes: int) -> Tensor:
    first = frame.warped.of_keyframe(0)
    return fusion.blend(first, first.known.float(), num_classes)


def inpaint(frame: Known, num_classes: int) -> Tensor:
    return fusion.inpaint(blend(frame, num_classes), fusion.motion_error(frame.warped), frame.teacher_probs())


def photometric_alone(threshold: float) -> Variant:
    """Inpaint where the photometric error of every source exceeds a threshold."""

    def variant(frame: Known, num_classes: int) -> Tensor:
        warped = frame.warped
        error = ((warped.photometric > threshold) | ~warped.known).all(0)
        return fusion.inpaint(blend(frame, num_classes), error, frame.teacher_probs())

    return variant


def with_constants(variant: Variant, **constants: float) -> Variant:
    """Make the same variant with other constants of the module."""

    def changed(frame: Known, num_classes: int) -> Tensor:
        before = {name: getattr(fusion, name) for name in constants}
        for name, value in constants.items():
            setattr(fusion, name, value)
        result = variant(frame, num_classes)
        for name, value in before.items():
            setattr(fusion, name, value)
        return result

    return changed


def variants(teacher: bool, scales: tuple[float, ...]) -> dict[str, Variant]:
    rows: dict[str, Variant] = {"motion:previous": previous, "motion:nearest": nearest, "motion (defaults)": blend}
    if not teacher:
        for value in scales:
            rows[f"PHOTOMETRIC_SCALE = {value}"] = with_constants(blend, PHOTOMETRIC_SCALE=value)
        for value in (0.0, 0.1, 0.5, 1.0):
            rows[f"NEARNESS = {value}"] = with_constants(blend, NEARNESS=value)
        for value in (0.1, 0.5, 1.0):
            rows[f"VOTE_SIGMA = {value}"] = with_constants(blend, VOTE_SIGMA=value)
        for value in (0.1, 0.3, 1.0):
            rows[f"TRUST_IN_ERROR = {value}"] = with_constants(blend, TRUST_IN_ERROR=value)
        return rows
    rows["inpaint (defaults)"] = inpaint
    rows["inpaint, forward-backward test alone"] = with_constants(inpaint, CONFIRMED_ERROR=-1.0)
    for value in (0.02, 0.06, 0.1, 0.15, 0.2):
        rows[f"inpaint, CONFIRMED_ERROR = {value}"] = with_constants(inpaint, CONFIRMED_ERROR=value)
    for value in (0.15, 0.25):
        rows[f"inpaint, photometric error above {value} alone"] = photometric_alone(value)
    rows["inpaint where no keyframe has a label"] = with_constants(inpaint, CONFIRMED_ERROR=9.0)
    return rows


def frames(root: str, every: int, offset: int, teacher: str | None) -> Iterator[tuple[Known, Tensor]]:
    """Yield every held-out frame of a data set with its truth."""
    index = select_clips(open_index(root), SelectArgs(label_every=every, label_offset=offset))
    methods = ["inpaint"] if teacher else ["motion"]
    module = PropagationModule(index.label_map.num_classes, methods, teacher)
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    for number in tqdm(range(len(items)), desc=f"{Path(root).name} K={every}", unit="interval"):
        batch = items[number]
        for frame in module.session(batch, only=batch.held_out).frames():
            assert frame.known is not None
            yield frame.known, batch.held_out[frame.known.index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="data sets, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, nargs="+", default=[25])
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--teacher", help="checkpoint for the rows of the motion-error mask")
    options = parser.parse_args()
    scales = (0.02, 0.04, 0.08, 0.16)
    rows = variants(options.teacher is not None, scales)
    table: dict[str, list[float]] = {name: [] for name in rows}
    header = ["", "mean"]
    for root in options.roots:
        num_classes = open_index(root).label_map.num_classes
        for every in options.every:
            header.append(f"{Path(root).name} K={every}")
            counts = {name: torch.zeros(num_classes, num_classes + 1, dtype=torch.long) for name in rows}
            with torch.inference_mode():
                for frame, truth in frames(root, every, options.offset, options.teacher):
                    for name, variant in rows.items():
                        labels, _ = argmax_with_confidence(variant(frame, num_classes)[None])
                        counts[name] += confusion(labels[0], truth, num_classes)
            for name, matrix in counts.items():
                table[name].append(100 * mean_iou(matrix).item())
    cells = [[name, *(f"{v:.2f}" for v in (sum(values) / len(values), *values))] for name, values in table.items()]
    print(markdown_table(header, cells))


if __name__ == "__main__":
    main()
