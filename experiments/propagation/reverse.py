"""Write a data set with all its clips backward in time, in the folder layout.

Frames are links to the original files; labels are written anew.

    python experiments/propagation/reverse.py camvid runs/reversed
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wrp.data.layouts.registry import open_index
from wrp.io.images import read_label
from wrp.io.label_map import write_label_map
from wrp.io.writing import new_folder, write_label


def reverse(root: str, split: str | None, out: Path) -> None:
    """Write the clips; clips that are videos are refused."""
    index = open_index(root, split=split)
    with new_folder(out) as folder:
        for clip in index.clips:
            frames, labels = folder / "frames" / clip.name, folder / "labels" / clip.name
            frames.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number, frame in enumerate(reversed(clip.frames)):
                if not isinstance(frame.image, Path):
                    raise SystemExit(f"{clip.name} is a video: expected a folder of frames")
                (frames / f"{number:05d}{frame.image.suffix}").symlink_to(frame.image.resolve())
                if frame.label is not None:
                    ids = read_label(frame.label, index.label_map).numpy()
                    write_label(labels / f"{number:05d}.png", ids, index.label_map)
        write_label_map(index.label_map, folder / "classes.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--split", help="split of the data set")
    options = parser.parse_args()
    reverse(options.root, options.split, options.out)


if __name__ == "__main__":
    main()
