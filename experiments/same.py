"""Compare the labels of this version with those of another one, byte for byte.

    git worktree add ../before 008bb2c
    python experiments/same.py --before ../before --out runs/same

The other version generates two scenes, trains a teacher and a refiner on each, and labels them; this version labels the
same scenes, and whatever else ``WRP_DATA`` holds of ``camvid`` and ``davis2016``, with the networks of the other, and
the SHA-256 of labels and confidence of every method are compared. Networks are carried over as plain state dicts,
whatever the format of the other version's checkpoints. Besides, a segmentation network learns for 20 steps in both, and
both make examples for a refiner from given sources, a given crop and its mirror image: losses have to agree to 1e-6,
examples exactly. Both run in one thread, without numba. What the other version has made in ``--out`` is used again.
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

# What both versions learn and make, in the words of each; COMMON goes in front, and KEPT is what is compared.
COMMON = """
import sys, torch, pytorch_lightning as pl
scene, out = sys.argv[1:]
options = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
losses = {"cross_entropy": 1.0, "dice": 1.0}
place, curve = (slice(8, 72), slice(16, 112)), []


class Keep(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, *_):
        curve.append(float(outputs["loss"]))


def learn(module, data):
    pl.Trainer(max_steps=20, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
               enable_model_summary=False, accelerator="cpu", callbacks=[Keep()]).fit(module, data)
    return module.eval()


def keep(examples):
    parts = [tensor for example in examples for tensor in vars(example).values()]
    torch.save({"curve": curve, "examples": parts}, out)


pl.seed_everything(0, verbose=False)
"""
THEIRS = """
from wrp import RefinementModule, SegmentationModule, VideoDataModule
from wrp.data.items import WindowItems
from wrp.ops.consistency import to_unit
from wrp.ops.fusion import gather
data = VideoDataModule(10, scene, label_every=12, crop_size=(64, 96), batch_size=4, epoch_length=80)
module = SegmentationModule(10, encoder="tu-regnetx_002", scale=0.5, options=options, losses=losses, lr=5e-3)
teacher = learn(module, data)
refiner = RefinementModule(10, teacher, jitter=0.0)
window = WindowItems(data.index.clips, data.label_map)[1]
walk, image = refiner.walk(window), to_unit(window.frame(window.targets[0]))
made = []
for before, behind in ((3, 5), (7, 1)):
    sources = gather([walk.cycles[-before].crop(*place), walk.cycles[behind].crop(*place)])
    example = refiner._look(image, sources, walk.semantic, place)
    made += [example, example.flip()]
keep(made)
"""
OURS = """
from wrp import CycleExamples, SegmentationData, SegmentationModule
from wrp.data.items import WindowItems
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.segmentation.losses import SegmentationLoss
from wrp.geometry.consistency import to_unit
from wrp.options import CycleArgs, NetworkArgs, OptimizerArgs, SamplingArgs, SelectArgs
from wrp.refinement.network import refiner_input
data = SegmentationData(10, scene, select=SelectArgs(label_every=12), sampling=SamplingArgs((64, 96), 4, 80))
network = NetworkArgs(encoder_name="tu-regnetx_002", scale=0.5, options=options)
module = SegmentationModule(10, network, OptimizerArgs(lr=5e-3), loss=SegmentationLoss(losses))
teacher = learn(module, data)
source = CycleExamples(teacher, flow=FlowCache(DIS()), cycles=CycleArgs(jitter=0.0))
window = WindowItems(data.index.clips, data.label_map)[1]
record = source.record(window, 10)
made = []
for before, behind in ((3, 5), (7, 1)):
    crop = record.crop([record.cycles[-before], record.cycles[behind]], place)
    example = refiner_input(to_unit(crop.image), crop.warped, crop.teacher_probs)
    made += [example, example.flip()]
keep(made)
"""

# Data sets beside the generated scenes, and the arguments of autolabel that keep them small.
REAL = {
    "camvid": ["--label-every", "25"],
    "davis2016": ["--clips", "swing", "--label-every", "20"],
}


def wrp(tree: Path, shadow: Path, *arguments: str) -> None:
    """Run the command line of a source tree."""
    run(tree, shadow, "import runpy; runpy.run_module('wrp', run_name='__main__')", *arguments)


def run(tree: Path, shadow: Path, code: str, *arguments: str) -> None:
    """Run some code with the package of a source tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(shadow), str(tree)])}
    environment |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    # Python looks into the working directory first.
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, cwd=tree, check=True, stdout=sys.stderr)


def carry(run: Path) -> list[str]:
    """Write the networks of a run of wrp 0.1 as checkpoints of this version; the flags that name them."""
    import pytorch_lightning as pl
    import torch

    from wrp import RefinementModule, SegmentationModule
    from wrp.options import NetworkArgs, RefinerArgs

    flags = []
    for name in ("teacher", "refiner"):
        theirs = torch.load(run / f"{name}.ckpt", map_location="cpu", weights_only=True)
        known = theirs["hyper_parameters"]
        module: pl.LightningModule
        if name == "teacher":
            args = NetworkArgs(known["architecture"], known["encoder"], None, known["options"], known["scale"])
            module = SegmentationModule(known["num_classes"], args)
        else:
            module = RefinementModule(known["num_classes"], RefinerArgs(tuple(known["channels"])))
        module.load_state_dict(theirs["state_dict"])
        ours = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        module.on_save_checkpoint(ours)
        path = run / f"carried-{name}.ckpt"
        torch.save(ours | {"pytorch-lightning_version": pl.__version__}, path)
        flags.append(f"--{name}={path}")
    return flags


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
        wrp(HERE, shadow, *command, *carry(first), f"--out={second}")
        theirs, ours = hashes(first), hashes(second)
        rows += [(name, method, theirs[method] == ours[method]) for method in theirs]
    return rows + compare_trainings(before, out, shadow, str(out / "scene-0"))


def compare_trainings(before: Path, out: Path, shadow: Path, scene: str) -> list[tuple[str, str, bool]]:
    """Whether both versions learn alike, and make the same examples."""
    import torch

    files = out / "learned-before.pt", out / "learned-now.pt"
    if not files[0].is_file():
        run(before, shadow, COMMON + THEIRS, scene, str(files[0]))
    run(HERE, shadow, COMMON + OURS, scene, str(files[1]))
    theirs, ours = (torch.load(path, weights_only=True) for path in files)
    steps = zip(theirs["curve"], ours["curve"], strict=True)
    examples = zip(theirs["examples"], ours["examples"], strict=True)
    return [
        ("training", "loss curve", all(abs(a - b) <= 1e-6 for a, b in steps)),
        ("training", "refiner examples", all(torch.equal(a, b) for a, b in examples)),
    ]


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
