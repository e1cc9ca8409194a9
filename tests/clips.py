"""Tiny data sets in the layouts of the real ones, with the shapes of their names and their oddities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wrp.structures import Clip, Frame, LabelMap

HEIGHT, WIDTH = 24, 40

LABEL_MAP = LabelMap(
    ids=(0, 3, 7), names=("road", "sky", "car"), colors=((10, 20, 30), (40, 50, 60), (70, 80, 90)), ignore=(255, 9)
)

CLASSES_YAML = """\
ignore: [255, 9]
classes:
  - {id: 0, name: road, color: [10, 20, 30]}
  - {id: 3, name: sky, color: [40, 50, 60]}
  - {id: 7, name: car, color: [70, 80, 90]}
"""


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A textured frame (H, W, 3) uint8 that slides by two pixels a frame."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin((x + 2 * number) / (3 + c) + c) * np.cos(y / (4 + c)) for c in range(3)]
    return np.stack(waves, -1).round().astype(np.uint8)


def id_picture(number: int, ids: Iterable[int] = (0, 3, 7), height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Ids (H, W) uint8 in vertical stripes that slide by two pixels a frame."""
    ids = np.array(list(ids), np.uint8)
    stripes = ((np.arange(width) + 2 * number) // max(1, width // len(ids))) % len(ids)
    return np.broadcast_to(ids[stripes], (height, width)).copy()


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    """Write an image, converted to ``mode`` if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def make_folder(
    root: Path, clips: dict[str, int], labelled: Collection[int] | None = None, suffix: str = ".png", first: int = 0
) -> Path:
    """The package's own layout: clips of so many frames; labels at these indices, or everywhere."""
    for name, count in clips.items():
        for i in range(count):
            save(root / "frames" / name / f"{first + i:05d}{suffix}", picture(i))
            if labelled is None or i in labelled:
                save(root / "labels" / name / f"{first + i:05d}.png", id_picture(i))
    (root / "classes.yaml").write_text(CLASSES_YAML)
    return root


def make_camvid(root: Path, val: int = 6, train: int = 4) -> Path:
    """CamVid: a clip of every second source frame for val, frames a second apart of three sequences for train."""
    names = [f"0016E5_{7959 + 2 * i:05d}" for i in range(val)]
    for split, stems in (("val", names), ("train", _camvid_train(train))):
        for i, stem in enumerate(stems):
            save(root / split / f"{stem}.png", picture(i))
            save(root / f"{split}annot" / f"{stem}.png", id_picture(i, range(12)))
        listed = [f"{split}/{stem}.png {split}annot/{stem}.png" for stem in stems]
        (root / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


def _camvid_train(count: int) -> list[str]:
    shapes = ("0001TP_{:06d}", "0006R0_f{:05d}", "0016E5_{:05d}")
    return [shapes[i % 3].format(6690 + 30 * i) for i in range(count)]


def make_davis(root: Path, sequences: dict[str, int]) -> Path:
    """DAVIS 2016 at 480p: masks of 0 and 255, the second of each sequence with alpha, the last one empty."""
    lines = []
    for name, count in sequences.items():
        for i in range(count):
            frame = Path("JPEGImages", "480p", name, f"{i:05d}.jpg")
            mask = Path("Annotations", "480p", name, f"{i:05d}.png")
            save(root / frame, picture(i))
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            if i < count - 1:
                values[6:18, 4 + 2 * i : 16 + 2 * i] = 255
            save(root / mask, values, "LA" if i == 1 else None)
            lines.append(f"/{frame.as_posix()} /{mask.as_posix()} ")
    listed = root / "ImageSets" / "480p" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(lines) + "\n")
    return root


def make_images(root: Path, splits: dict[str, int], labelled: Collection[int] | None = None) -> Path:
    """Labelled images without video."""
    for split, count in splits.items():
        for i in range(count):
            save(root / "images" / split / f"view{i}.png", picture(i))
            if labelled is None or i in labelled:
                save(root / "labels" / split / f"view{i}.png", id_picture(i))
    (root / "classes.yaml").write_text(CLASSES_YAML)
    return root


def bare_clip(count: int, keyframes: Iterable[int] = (), held_out: Iterable[int] = (), name: str = "walk") -> Clip:
    """A clip without files."""
    keyframes, held_out = tuple(keyframes), tuple(held_out)
    labelled = {*keyframes, *held_out}
    frames = tuple(
        Frame(f"{i:05d}", Path(f"{i:05d}.png"), Path(f"label{i}.png") if i in labelled else None) for i in range(count)
    )
    return Clip(name, frames, keyframes, held_out)


def make_video(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """A video of frames (H, W, 3) uint8 without any loss."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=15, options={"qp": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
