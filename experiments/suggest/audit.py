"""Measure how many mistakes in the labels of keyframes the audit finds, by planting some.

One mistake at a time: in a keyframe that is drawn, an object (a connected region of one class, of 0.2 to 10 % of the
frame) gets another class that the frame shows ("swapped"), or the class that is most frequent around it ("forgotten"),
or the whole label is shifted by 2 to 4 % of the width ("shifted"). The run is audited as its keyframes are then: the
planted mistake is carried to the neighbours as well. A region that is listed is right if most of its pixels were
changed. What is listed without a planted mistake counts as a false alarm, although data sets have mistakes of their
own.

    python experiments/suggest/audit.py domains/chair:10 camvid:5 camvid:10 domains/em:4 domains/vocalfolds:4
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import torch
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import HeldOutItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.presets import make_flow
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.propagation import audit
from wrp.propagation.confidence import fit_without
from wrp.structures import IGNORE_INDEX, ClipBatch

KINDS = ("swapped", "forgotten", "shifted")
SETTINGS = [  # least calibrated confidence, band, least number of pixels
    (0.9, 0.01, 0.001),
    (0.8, 0.01, 0.001),
    (0.95, 0.01, 0.001),
    (0.9, 0.005, 0.001),
    (0.9, 0.02, 0.001),
    (0.9, 0.01, 0.0005),
    (0.9, 0.01, 0.002),
]
Maps = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A keyframe's own label, that of its neighbours, and the confidence of that."""


def plant(label: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray | None:
    """Return a label with a mistake; None if it has no object for one."""
    height, width = label.shape
    if kind == "shifted":
        reach = generator.uniform(0.02, 0.04) * width
        angle = generator.uniform(0, 2 * np.pi)
        shift = np.array([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]], np.float32)
        return cv2.warpAffine(label, shift, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    objects = []
    for value in np.setdiff1d(label, [IGNORE_INDEX]):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((label == value).astype(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA] / label.size
        objects += [parts == number for number in range(1, count) if 0.002 <= areas[number] <= 0.1]
    if not objects:
        return None
    chosen = objects[generator.integers(len(objects))]
    mine = label[chosen][0]
    ring = cv2.dilate(chosen.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~chosen
    around = label[ring & (label != IGNORE_INDEX) & (label != mine)]
    others = np.setdiff1d(label, [IGNORE_INDEX, mine])
    if not len(around) or not len(others):
        return None
    planted = label.copy()
    planted[chosen] = np.bincount(around).argmax() if kind == "forgotten" else generator.choice(others)
    return planted


class Keyframes:
    """The keyframes of a data set that lie between two others, and what their neighbours say of them."""

    def __init__(self, root: str, every: int, flow: str, folder: str) -> None:
        index = select_clips(open_index(root), SelectArgs(label_every=every))
        self.items = HeldOutItems(index.clips, index.label_map)
        self.module = PropagationModule(index.label_map.num_classes, flow=FlowCache(make_flow(flow), folder)).eval()
        self.batches = [self.items[number] for number in range(len(self.items))]
        self.clean = [self.maps(batch) for batch in tqdm(self.batches, desc=f"{root}, K={every}", unit="keyframe")]
        counted = [self.module.count_confidence(batch) for batch in self.batches]
        self.lines = fit_without(counted, "motion", range(len(counted)))

    def maps(self, batch: ClipBatch) -> Maps:
        [(labels, truth)] = self.module.at_held_out(batch)
        other, confidence = labels["motion"]
        return truth.labels.numpy(), other.numpy(), confidence.numpy()

    def listed(self, number: int, maps: Maps, setting: tuple[float, float, float]) -> list[audit.Contradiction]:
        """Return the contradictions of a keyframe that are listed, calibrated by the others as they are."""
        sure, band, pixels = setting
        audit.SURE = sure
        found = audit.find_contradictions(*maps, band=band, pixels=pixels)
        clip, at = self.items.held_out[number]
        before, own, after = clip.keyframes[at - 1 : at + 2]
        return audit.surest(found, self.lines[number], min(own - before, after - own))

    def neighbours(self, number: int, planted: np.ndarray) -> Iterator[tuple[int, Maps]]:
        """Yield number and maps of the keyframes beside one with a mistake, as far as they lie between two others."""
        clip, place = self.items.held_out[number]
        for beside in (number - 1, number + 1):
            if not 0 <= beside < len(self.batches) or self.items.held_out[beside][0].name != clip.name:
                continue
            batch, at = self.batches[beside], clip.keyframes[place]
            labels = dict(batch.labels) | {at: torch.from_numpy(planted)}
            yield beside, self.maps(replace(batch, labels=labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data set and spacing of its keyframes, ROOT:K")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow")
    parser.add_argument("--mistakes", type=int, default=8, help="how many of each kind are planted in each data set")
    options = parser.parse_args()
    rows: dict[tuple[float, float, float], list[list[str]]] = {setting: [] for setting in SETTINGS}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for one in options.data:
            root, every = one.rsplit(":", 1)
            keyframes = Keyframes(root, int(every), options.flow, folder)
            generator = np.random.default_rng(0)
            planted = []
            for kind in KINDS:
                for _ in range(options.mistakes):
                    number = int(generator.integers(len(keyframes.clean)))
                    own, other, confidence = keyframes.clean[number]
                    if (wrong := plant(own, kind, generator)) is not None:
                        beside = list(keyframes.neighbours(number, wrong))
                        planted.append((kind, number, own != wrong, (wrong, other, confidence), beside))
            for setting in SETTINGS:
                alarms = [len(keyframes.listed(*one, setting)) for one in enumerate(keyframes.clean)]
                found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
                right, wrong_ones = 0, 0
                for kind, number, changed, maps, beside in planted:
                    listed = keyframes.listed(number, maps, setting)
                    hits = [is_right(region, changed, maps) for region in listed]
                    found[kind].append(any(hits))
                    right += sum(hits)
                    wrong_ones += len(hits) - sum(hits)
                    wrong_ones += sum(len(keyframes.listed(*one, setting)) for one in beside)
                row = [f"{root}, K={every}", str(len(keyframes.clean)), f"{np.mean(alarms):.2f}"]
                row += [f"{100 * np.mean(found[kind]):.0f}" if found[kind] else "–" for kind in KINDS]
                row += [f"{100 * right / max(1, right + wrong_ones):.0f}"]
                rows[setting].append(row)
            print(rows[SETTINGS[0]][-1], flush=True)
    header = ["data", "keyframes", "false alarms per keyframe", *KINDS, "precision"]
    for setting, of_setting in rows.items():
        print("\nconfidence {}, band {}, pixels {}\n".format(*setting))
        print(markdown_table(header, of_setting))


def is_right(region: audit.Contradiction, changed: np.ndarray, maps: Maps) -> bool:
    """Tell whether most pixels of a region were changed."""
    left, top, across, down = region.box
    place = np.s_[top : top + down, left : left + across]
    inside = (maps[0][place] == region.own) & (maps[1][place] == region.other)
    return bool(changed[place][inside].mean() > 0.5)


if __name__ == "__main__":
    main()
