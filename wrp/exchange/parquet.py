"""A folder for Hugging Face's ``datasets``: ``data/train-00000.parquet`` …, ``classes.yaml``; written, not read.

``datasets.load_dataset(FOLDER)`` reads it (https://huggingface.co/docs/datasets/image_dataset), also with
``streaming=True``. A row is a frame: ``clip``, ``frame``, ``image`` and ``label``, an indexed PNG of ids, 255 where
unlabelled. That ``image`` and ``label`` are pictures stands in the files' metadata. Written by pyarrow (extra
``parquet``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wrp.errors import WrpError
from wrp.exchange.base import SPLIT, Export
from wrp.io.label_map import write_label_map
from wrp.io.progress import progress
from wrp.io.writing import encode_label, replacing

CLASSES = "classes.yaml"

ROWS, FILE_ROWS, FILE_BYTES = 100, 1000, 2**29
"""Frames that are written, and held in memory, together; frames, and bytes more or less, after which a file ends."""


def write(export: Export, out: Path) -> None:
    """Write a run's labels file by file, so that memory does not grow with their number."""
    arrow, parquet = _libraries()
    write_label_map(export.label_map, out / CLASSES)
    schema = _schema(arrow, export.images)
    frames = iter(progress(export.frames, desc="Exporting", unit="frame"))
    left, number = len(export.frames), 0
    while left:
        path = out / "data" / f"{SPLIT}-{number:05d}.parquet"
        number += 1
        if path.is_file():  # of an export that was stopped
            for _ in range(parquet.read_metadata(path).num_rows):
                next(frames)
                left -= 1
            continue
        with replacing(path) as temporary:
            count = size = 0
            with parquet.ParquetWriter(temporary, schema) as writer:
                while left and count < FILE_ROWS and size < FILE_BYTES:
                    rows: list[dict[str, Any]] = []
                    held = 0
                    while left and len(rows) < ROWS and held < FILE_BYTES // 8:
                        frame = next(frames)
                        label = encode_label(export.labels(frame), export.label_map)
                        row: dict[str, Any] = {"clip": frame.clip, "frame": frame.stem}
                        if (image := export.encoded_image(frame)) is not None:
                            row["image"] = {"bytes": image, "path": frame.file_name}
                            held += len(image)
                        rows.append(row | {"label": {"bytes": label, "path": f"{frame.name}.png"}})
                        held, left = held + len(label), left - 1
                    writer.write_table(arrow.Table.from_pylist(rows, schema))
                    count, size = count + len(rows), size + held


def _libraries() -> tuple[Any, Any]:
    """Return pyarrow and its module of Parquet; raise WrpError if it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise WrpError("Parquet needs pyarrow: pip install 'wrp[parquet]'") from error
    return pyarrow, parquet


def _schema(arrow: Any, images: bool) -> Any:
    picture = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    text = {"dtype": "string", "_type": "Value"}
    kinds = {"clip": (arrow.string(), text), "frame": (arrow.string(), text)}
    kinds |= {"image": (picture, {"_type": "Image"})} if images else {}
    kinds |= {"label": (picture, {"_type": "Image"})}
    features = {"info": {"features": {name: feature for name, (_, feature) in kinds.items()}}}
    fields = [(name, kind) for name, (kind, _) in kinds.items()]
    return arrow.schema(fields, metadata={"huggingface": json.dumps(features)})
