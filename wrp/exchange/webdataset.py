"""WebDataset: shards ``train-000000.tar`` … for training elsewhere, and ``classes.yaml``; written, not read.

https://github.com/webdataset/webdataset. A sample is the files of a frame, one after the other in the archive, whose
names have the frame's number and what they are: ``.json``, its ``clip`` and ``frame``; ``.jpg`` or ``.png``, the image;
and ``.label.png``, the label, an indexed PNG of ids, 255 where unlabelled. Names of clips and frames are in the JSON
alone, as a key ends at the first dot of a name.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from wrp.exchange.base import SPLIT, Export
from wrp.io.label_map import write_label_map
from wrp.io.progress import progress
from wrp.io.writing import encode_label, replacing

CLASSES = "classes.yaml"

SHARD_FRAMES, SHARD_BYTES = 1000, 2**29
"""Frames, and bytes more or less, after which a shard ends."""


def write(export: Export, out: Path) -> None:
    """Write a run's labels shard by shard, so that memory does not grow with their number."""
    write_label_map(export.label_map, out / CLASSES)
    frames = enumerate(progress(export.frames, desc="Exporting", unit="frame"))
    left, shard = len(export.frames), 0
    while left:
        path = out / f"{SPLIT}-{shard:06d}.tar"
        shard += 1
        if path.is_file():  # of an export that was stopped
            for _ in range(_count(path)):
                next(frames)
                left -= 1
            continue
        with replacing(path) as temporary, tarfile.open(temporary, "w") as archive:
            count = 0
            while left and count < SHARD_FRAMES and (archive.offset < SHARD_BYTES or not count):
                number, frame = next(frames)
                about = {"clip": frame.clip, "frame": frame.stem}
                members = {"json": json.dumps(about, ensure_ascii=False).encode()}
                if (image := export.encoded_image(frame)) is not None:
                    members[Path(frame.file_name).suffix.lower().lstrip(".").replace("jpeg", "jpg")] = image
                members["label.png"] = encode_label(export.labels(frame), export.label_map)
                for kind, content in members.items():
                    entry = tarfile.TarInfo(f"{number:09d}.{kind}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                count, left = count + 1, left - 1


def _count(path: Path) -> int:
    """Return the number of frames in a shard."""
    with tarfile.open(path) as archive:
        return sum(name.endswith(".json") for name in archive.getnames())
