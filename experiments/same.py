"""Compare the labels of this version with those of another one, byte for byte.

    git worktree add ../before 008bb2c
    python experiments/same.py --before ../before --out runs/same

The other version generates two scenes, trains a teacher and a refiner on each, and labels them; this version labels the
same scenes, and whatever else ``WRP_DATA`` holds of ``camvid`` and ``davis2016``, with the networks of the other, and
the SHA-256 of labels and confidence of every method are compared. Both run in one thread, without numba. What the other
version has made in ``--out`` is used again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
METHODS = ("motion", "vote", "semantic", "inpaint", "refine")

# Data sets beside the generated scenes, and the arguments of autolabel that keep them small.
REAL = {
    "camvid": ["--label-every", "25"],
    "davis2016": ["--clips", "swing", "--label-every", "20"],
}


def wrp(tree: Path, shadow: Path, *arguments: str) -> None:
    """Run the command line of a source tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(shadow), str(tree)])}
    environment |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    command = [sys.executable, "-c", "import sys; from wrp.cli import main; sys.exit(main(sys.argv[1:]))", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of all labels, and of all confidence, of a run, by method."""
    folders = {"confidence": run / "confidence", METHODS[-1]: run / "labels"}
    folders |= {method: run / "methods" / method for method in METHODS[:-1]}
    found = {}
    for name, folder in folders.items():
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*.png")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        found[name] = digest.hexdigest()
    return found


def compare(before: Path, out: Path, real: bool, size: str, steps: tuple[int, int]) -> list[tuple[str, str, bool]]:
    """Label everything with both versions, and return each data set, method, and whether both agree."""
    shadow = out / "shadow"
    shadow.mkdir(parents=True, exist_ok=True)
    (shadow / "numba.py").write_text("raise ImportError('done without')\n")
    sets: dict[str, list[str]] = {}
    for seed in ("0", "1"):
        scene = str(out / f"scene-{seed}")
        if not Path(scene).is_dir():
            wrp(before, shadow, "data", "synthetic", scene, "--frames=25", f"--size={size}", f"--seed={seed}")
        sets[scene] = ["--label-every", "12"]
    if real:
        sets |= REAL
    rows = []
    for root, more in sets.items():
        name = Path(root).name
        first, second = (out / f"{name}-{version}" for version in ("before", "now"))
        command = ["autolabel", root, "--methods", ",".join(METHODS), "--seed=0", "--weights=none", *more]
        command += [f"--teacher-steps={steps[0]}", f"--refiner-steps={steps[1]}"]
        if not (first / "metrics.json").is_file():
            wrp(before, shadow, *command, f"--out={first}")
        shutil.rmtree(second, ignore_errors=True)
        given = [f"--teacher={first / 'teacher.ckpt'}", f"--refiner={first / 'refiner.ckpt'}"]
        wrp(HERE, shadow, *command, *given, f"--out={second}")
        theirs, ours = hashes(first), hashes(second)
        rows += [(name, method, theirs[method] == ours[method]) for method in theirs]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="source tree of the other version")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--size", default="224x128", help="of the generated scenes, WxH (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs=2, default=(60, 40), help="of teacher and refiner (default: 60 40)")
    options = parser.parse_args()
    real = bool(os.environ.get("WRP_DATA"))
    rows = compare(options.before.resolve(), options.out.resolve(), real, options.size, tuple(options.steps))
    for name, method, same in rows:
        print(f"{name}\t{method}\t{'same' if same else 'DIFFERENT'}")
    sys.exit(0 if all(same for _, _, same in rows) else 1)


if __name__ == "__main__":
    main()
