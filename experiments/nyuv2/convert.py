"""Convert the labels of NYU Depth V2 to the layout that this package reads.

    python experiments/nyuv2/convert.py nyu_depth_v2_labeled.mat classMapping40.mat splits.mat --out $WRP_DATA/nyuv2

The first file is from https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html. The second maps its 894 classes to 40
(Gupta et al., CVPR 2013); it and the third file are from the authors' toolboxes. Put the raw frames into ``<out>/raw``.
Needs h5py and scipy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wrp.data.layouts.nyuv2 import LABEL_MAP
from wrp.io.writing import write_label, write_text


def convert(labelled: Path, mapping: Path, splits: Path, out: Path) -> int:
    """Write labels and lists, and return the number of labels."""
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise SystemExit(f"{error}: pip install h5py scipy") from error
    if (out / "labels40").exists():
        raise SystemExit(f"{out / 'labels40'} exists already: delete it to convert anew")
    to_40 = np.concatenate(([0], loadmat(mapping)["mapClass"].ravel())).astype(np.uint8)
    stems = []
    with h5py.File(labelled) as file:
        labels = file["labels"]
        names = file["rawRgbFilenames"][0]
        for i in tqdm(range(len(labels)), unit="label"):
            name = Path("".join(map(chr, file[names[i]][:].ravel())))
            stems.append(f"{name.parent}/{name.stem}")
            # MATLAB stores columns first. Class 0 means unlabelled; our class indices begin at 0.
            ids = to_40[labels[i].T]
            write_label(out / "labels40" / name.parent / f"{name.stem}.png", ids - 1, LABEL_MAP)
    chosen = loadmat(splits)
    for split in ("train", "test"):
        numbers = chosen[f"{split}Ndxs"].ravel()
        write_text(out / f"{split}.txt", "\n".join(stems[number - 1] for number in numbers) + "\n")
    return len(stems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("mapping", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(f"{convert(options.labelled, options.mapping, options.splits, options.out)} labels in {options.out}")


if __name__ == "__main__":
    main()
