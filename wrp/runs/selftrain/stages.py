"""Run the semi-supervised systems on images stage by stage; each stage is done once and its results are kept."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from wrp.data.checking import THREADS, cancelling
from wrp.data.classes import require_classes
from wrp.data.index import files_of
from wrp.data.layouts.registry import find_folder
from wrp.data.lists import label_map_of
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import DataError, WrpError
from wrp.io.checkpoints import network_hash
from wrp.io.opening import read_content, read_json
from wrp.io.outputs import SELFTRAIN, check_output, check_place
from wrp.io.progress import progress
from wrp.io.writing import checksum, encode_label, make_folder, sync_folder, write_content, write_json
from wrp.options import (
    InferenceArgs,
    OptimizerArgs,
)
from wrp.runs.processes import Processes
from wrp.runs.record import forget_fruitless, recorded
from wrp.runs.reliability import predict
from wrp.runs.selftrain.config import SelfTraining, in_flags
from wrp.runs.stage import Stage
from wrp.runs.trainer import decisive, logger_folders, quiet_lightning
from wrp.runs.training import fit, thirds_of
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.segmentation.network import create_segmenter
from wrp.structures import Frame

logger = logging.getLogger("wrp")


# Pseudo-labels after which their checksums are written.
NOTE_EVERY = 256


class Run:
    """One run: its data, its networks, and the making of its stages.

    Args:
        settings: The settings of the run.
        processes: The processes that carry it out; None: this one alone.

    Raises:
        WrpError: If the lists, the given network or the output folder cannot be used.
    """

    def __init__(self, settings: SelfTraining, processes: Processes | None = None) -> None:
        self.settings = settings
        self.processes = processes if processes is not None else Processes()
        self.batch_size = self.processes.divide(settings.sampling.batch_size, "--batch-size")
        self.label_map = label_map_of(find_folder(settings.root), settings.layout)
        base = self.data()
        self._check_lists(base)
        self.other_ids = base.label_map != self.label_map
        self.label_map = base.label_map
        self.out = check_output(Path(settings.out), SELFTRAIN, base.reads)
        for folder in logger_folders(settings.trainer):
            check_place(folder, base.reads, "--trainer.logger.save_dir")
        if len(base.images("val")) < self.processes.size:
            raise WrpError(f"{settings.lists.val} lists fewer images than the {self.processes.size} processes")
        self.labelled = base.images("labelled")
        self.unlabelled = base.images("unlabelled")
        require_classes(self.labelled, self.label_map)
        if settings.supervised is not None:
            self._check_first(Path(settings.supervised))
        create_segmenter(self.label_map.num_classes, settings.network)  # a mistake in it costs no work

    def _check_lists(self, data: SemiSupervisedData) -> None:
        """Refuse lists that are empty or overlap."""
        for option, path in asdict(self.settings.lists).items():
            if not data.images(option):
                raise WrpError(f"{path} lists no images; list at least one")
        for one, other in (("labelled", "unlabelled"), ("labelled", "val"), ("unlabelled", "val")):
            data.check_apart(one, other)
        lists = self.settings.lists
        if both := {f.stem for f in data.images("labelled")} & {f.stem for f in data.images("unlabelled")}:
            raise WrpError(f"{min(both)} is in both {lists.labelled} and {lists.unlabelled}; rename one of the images")

    def _check_first(self, network: Path) -> None:
        """Refuse a given network that does not fit, before anything is done."""
        self.load(network)
        lacking = [path for path in thirds_of(network) if not path.is_file()]
        if self.settings.system == "st++" and lacking:
            raise WrpError(
                f"there is no {lacking[0]}: st++ needs the network as it was after one and two thirds of its training; "
                "leave out --supervised, or give a network that a run of st++ has trained"
            )

    def claim(self) -> None:
        """Record the settings in the output folder.

        Raises:
            WrpError: If the folder holds a run with other settings or images: results are never mixed.
        """
        given = json.loads(json.dumps(asdict(self.settings)))
        mine = {key: value for key, value in given.items() if key not in ("out", "workers")}
        mine["trainer"] = decisive(self.settings.trainer)
        # Pseudo-labels and scores belong to the images that the lists named, whatever the lists are called.
        mine["images"] = self._images_hash()
        path = self.out / "settings.json"
        theirs = recorded(path) or mine
        changed = [key for key in mine if theirs.get(key) != mine[key]]
        if changed:
            what = f"{self.out} holds a run whose images or labels have changed since, or were added or removed"
            if changed != ["images"]:
                what = f"{self.out} was begun {in_flags(theirs, mine)}"
            if not forget_fruitless(self.out, what):
                raise WrpError(f"{what}; choose another --out, or delete it to start again")
        write_json(path, mine)

    def check_unchanged(self) -> None:
        """Raise WrpError if images or labels have changed while the run was reading them."""
        if recorded(self.out / "settings.json").get("images") != self._images_hash():
            raise WrpError(
                f"images or labels of {self.settings.root} changed while the run was at work, so that its networks may "
                f"be of both states; choose another --out, or delete {self.out} to start again"
            )

    def _images_hash(self) -> str:
        """Hash the names and the contents of the images and labels to learn from; 16 hexadecimal digits."""
        digest = hashlib.sha256(b"train ids" if self.other_ids else b"")
        files = [(frame.stem, path) for frame in self.labelled for path in files_of([frame])]
        files += [(frame.stem, next(files_of([frame]))) for frame in self.unlabelled]
        with cancelling(THREADS) as pool:
            contents = pool.map(lambda file: hashlib.sha256(read_content(file[1])).digest(), files)
            named = progress(files, desc="Reading images", unit="file")  # all of them, which may take minutes
            for (stem, _), content in zip(named, contents, strict=True):
                digest.update(f"{stem}\n".encode() + content)
        return digest.hexdigest()[:16]

    def data(self, pseudo: Path | None = None, alone: bool = False, names: Path | None = None) -> SemiSupervisedData:
        """Make the data of a stage.

        Args:
            pseudo: Folder with the pseudo-labels of the unlabelled images; None: no pseudo-labels.
            alone: Whether to use the labelled images only.
            names: List of the images to use as unlabelled ones; None: the list of the settings.
        """
        s = self.settings
        return SemiSupervisedData(
            self.label_map.num_classes,
            s.root,
            s.lists.labelled,
            None if alone else str(names or s.lists.unlabelled),
            s.lists.val,
            s.layout,
            str(pseudo) if pseudo is not None else None,
            replace(
                s.sampling,
                batch_size=self.batch_size,
                epoch_length=s.steps * s.sampling.batch_size,
                seed=s.seed,
            ),
            workers=self.processes.loaders(s.workers),
        )

    def path(self, stage: str) -> Path:
        """Return the checkpoint of a stage."""
        return self.out / f"{stage}.ckpt"

    def training(
        self,
        stage: str,
        kind: type[SegmentationModule],
        data: Callable[[], SemiSupervisedData],
        inputs: Sequence[Path] = (),
        draw: Callable[[], Any] | None = None,
        thirds: bool = False,
        **changes: Any,
    ) -> Stage:
        """Make the stage that trains a new network.

        Args:
            stage: Name of the stage.
            kind: Class of the module.
            data: Function that makes the data.
            inputs: Networks of earlier stages that this one depends on.
            draw: Function that makes the source of query images (CISC-R); called once per stage, so that results do
                not depend on the stages that ran before.
            thirds: Whether to keep checkpoints after one and two thirds of the steps as well.
            changes: Further arguments of the module's class.
        """
        s = self.settings

        def run() -> None:
            pl.seed_everything(s.seed, verbose=False)
            # By name, as Lightning finds the arguments of subclasses to save them.
            module = kind(
                num_classes=self.label_map.num_classes,
                network=s.network,
                optimizer=OptimizerArgs(lr=s.lr, encoder_lr=s.encoder_lr),
                **changes,
            )
            if draw is not None:
                module.draw = draw()
            fit(module, data(), s.steps, self.path(stage), thirds, self.processes)

        return Stage(stage, tuple(inputs), (self.path(stage),), run, f"Training {stage}")

    def folder(self, stage: str) -> Path:
        """Return the folder of the pseudo-labels of a stage."""
        return self.out / "pseudo" / stage

    def labelling(
        self,
        stage: str,
        network: Path,
        frames: Callable[[], list[Frame]],
        inference: InferenceArgs | None = None,
    ) -> Stage:
        """Make the stage that writes the predictions of a network as pseudo-labels; its existing ones are kept.

        The checksums of the pseudo-labels and of their networks are in ``pseudo/<stage>.<process>.json``: what another
        network has predicted, or somebody has changed, is made again.

        Args:
            stage: Stage that will learn from the pseudo-labels.
            network: Checkpoint of the network that predicts them.
            frames: Function that returns the images to label.
            inference: Scales, windows and flipping of the prediction; None: the image as it is.
        """

        def run() -> None:
            folder = self.folder(stage)
            self.processes.first(lambda: make_folder(folder))
            made_by = network_hash(str(network))
            noted = self.processes.first(lambda: self._noted(stage))
            mine = self.processes.part(frames())
            left = [
                frame for frame in mine if not _is_written(folder / f"{frame.stem}.png", made_by, noted.get(frame.stem))
            ]
            if left:
                module = self.load(network)
                module.inference = inference or InferenceArgs()
                predicted = predict([module], left, self.processes.loaders(self.settings.workers))
                named = progress(left, desc=f"Labelling for {stage}", unit="image")
                note = folder.with_name(f"{stage}.{self.processes.rank}.json")
                told = noted if self.processes.is_first else {}  # what others have made anew, they tell
                for number, (frame, [labels]) in enumerate(zip(named, predicted, strict=True), 1):
                    content = encode_label(labels.numpy(), self.label_map)
                    write_content(folder / f"{frame.stem}.png", content)
                    told[frame.stem] = f"{made_by} {checksum(content)}"
                    if number % NOTE_EVERY == 0 or number == len(left):
                        sync_folder(folder)
                        write_json(note, told)

        return Stage(f"labels for {stage} by {network.stem}", (), (), run)

    def _noted(self, stage: str) -> dict[str, str]:
        """Return the checksums of pseudo-labels that were written before, behind those of their networks, by name."""
        noted: dict[str, str] = {}
        paths = sorted((self.out / "pseudo").glob(f"{glob.escape(stage)}.*.json"))
        for path in paths:
            try:
                noted |= {str(stem): str(found) for stem, found in read_json(path, "it is made again").items()}
            except DataError as error:
                logger.warning("%s", error)
        joined = self.folder(stage).with_name(f"{stage}.0.json")
        if paths:
            write_json(joined, noted)
        for path in paths:  # the processes may be others from now on
            if path != joined:
                path.unlink()
        return noted

    def load(self, network: Path) -> SegmentationModule:
        """Load the network of an earlier stage."""
        module: SegmentationModule = load_segmenter(str(network), self.label_map.num_classes)
        return module.to(self.processes.device)

    @property
    def first(self) -> Path:
        """Checkpoint of the network trained on labelled images only, or of the one that was given."""
        given = self.settings.supervised
        return Path(given) if given is not None else self.path("supervised")

    def first_stage(self, kind: type[SegmentationModule] = SegmentationModule) -> list[Stage]:
        """Return the stage that trains on labelled images only; none if its network was given."""
        if self.settings.supervised is not None:
            return []
        thirds = self.settings.system == "st++"
        return [self.training("supervised", kind, lambda: self.data(alone=True), thirds=thirds)]

    def scoring(self, name: str, network: Path, compute: Callable[[Sequence[Frame]], list[float]]) -> Stage:
        """Make the stage that scores the unlabelled images by a network and writes the scores to ``<name>.json``.

        Args:
            name: Name of the stage.
            network: Checkpoint that the scores depend on.
            compute: Function that returns the scores of images; the greater, the better.
        """
        path = self.out / f"{name}.json"

        def run() -> None:
            scores = self.processes.join(compute(self.processes.part(self.unlabelled)))
            named = zip((frame.stem for frame in self.unlabelled), scores, strict=True)
            self.processes.first(lambda: write_json(path, dict(named)))

        return Stage(name, (network,), (path,), run)

    def scores(self, name: str) -> dict[str, float]:
        """Read the scores that a stage has written, by the name of the image."""
        return read_json(self.out / f"{name}.json", "delete it to make it again")

    def test(self, network: Path) -> dict[str, float]:
        """Score a network on the validation images: mIoU and others, in percent."""
        with quiet_lightning():
            [scores] = self.processes.trainer().test(self.load(network), self.data(alone=True), verbose=False)
        return {key.removeprefix("test/"): value for key, value in scores.items()}


def _is_written(path: Path, network: str, noted: str | None) -> bool:
    """Tell whether a pseudo-label is there as this network has predicted it."""
    if not path.is_file():
        return False
    if noted == f"{network} {checksum(path.read_bytes())}":
        return True
    if noted is not None and noted.startswith(network):
        logger.warning("%s is not what was written there; it is made again", path)
    return False
