"""What an autolabel run is asked to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wrp.data.datasets import find_folder
from wrp.errors import WrpError
from wrp.opening import parse_yaml, read_json
from wrp.propagation.methods import make_methods
from wrp.writing import MARKER, checksum, make_folder, names_in, write_json

# Narrower than smp's defaults, in whose pyramid most of a step on a CPU goes.
SLIM_FPN = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
STUDENTS = ("plain", "cisc-r", "three-stage", "st++")
METHODS = ("motion", "semantic", "inpaint", "refine")


@dataclass(frozen=True)
class Settings:
    """Settings of an autolabel run; those of the trainings are for two CPU cores, see experiments/README.md.

    Attributes:
        root: Root of a data set or of a folder in the package's layout.
        out: Where everything is written.
        layout: ``auto`` or the name of a layout.
        split: Split of the data set; None: the layout's default.
        clips: Names of the clips; None: all.
        label_every: Hide all labels but every K-th, for evaluation.
        label_offset: Number of the first label that is kept.
        anchors: File with the labels that are kept, lines ``<clip>/<frame>``, instead of every K-th.
        methods: Propagation methods; the last one is the result.
        teacher: Checkpoint to use instead of training one.
        refiner: Checkpoint to use instead of training one.
        weights: ``auto``: ImageNet encoder weights if they can be had, else from scratch; ``none`` or a name otherwise.
        architecture: The teacher's architecture.
        encoder: The teacher's encoder.
        teacher_options: Further arguments of the architecture.
        teacher_scale: The teacher's working resolution.
        teacher_losses: Weight of each loss in its training.
        teacher_share: Share of its crops that come from the clips' frames, labelled by motion alone. It makes the
            teacher better and the refiner worse: the teacher's errors are then those of motion.
        teacher_confidence: Pixels of those frames that are less confident do not count.
        teacher_lr: The teacher's learning rate at the start.
        teacher_steps: Training steps of the teacher.
        teacher_crop: Height and width of its crops in pixels.
        teacher_batch: Crops per step.
        teacher_folds: Further teachers, each without a share of the labels, for the refiner to learn from; 0: none.
        refiner_steps: Training steps of the refiner.
        refiner_crop: Height and width of its crops in pixels.
        refiner_batch: Crops per step.
        student: How a network like the teacher is to learn from all frames in the end: ``plain``, ``cisc-r``,
            ``three-stage`` or ``st++``; None: no such network.
        on_error: What a clip with a broken file does: ``stop`` the run before it begins, or ``skip``: it is left out.
        flow_cache: Folder for optical flow, to be shared between runs; None: one in ``out``, deleted in the end.
        seed: Seed of everything that is random.
        workers: Loader processes.
    """

    root: str
    out: str
    layout: str = "auto"
    split: str | None = None
    clips: tuple[str, ...] | None = None
    label_every: int | None = None
    label_offset: int = 0
    anchors: str | None = None
    methods: tuple[str, ...] = METHODS
    teacher: str | None = None
    refiner: str | None = None
    weights: str = "auto"
    architecture: str = "FPN"
    encoder: str = "tu-regnetx_002"
    teacher_options: dict[str, Any] = field(default_factory=lambda: dict(SLIM_FPN))
    teacher_scale: float = 0.5
    teacher_losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0, "dice": 1.0})
    teacher_share: float = 0.0
    teacher_confidence: float = 0.7
    teacher_lr: float = 5e-3
    teacher_steps: int = 2000
    teacher_crop: tuple[int, int] = (256, 448)
    teacher_batch: int = 8
    teacher_folds: int = 0
    refiner_steps: int = 1200
    refiner_crop: tuple[int, int] = (192, 256)
    refiner_batch: int = 6
    student: str | None = None
    on_error: str = "stop"
    flow_cache: str | None = None
    min_confidence: float = 0.0
    shard: str | None = None
    limit: int | None = None
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work before anything is done."""
        make_methods(list(self.methods))
        for name in ("teacher_steps", "refiner_steps", "teacher_batch", "refiner_batch"):
            if getattr(self, name) < 1:
                raise WrpError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        for name in ("min_confidence", "teacher_share", "teacher_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise WrpError(f"--{name.replace('_', '-')} must be in 0 … 1, got {getattr(self, name)}")
        if self.teacher_folds < 0 or self.teacher_folds == 1:
            raise WrpError(f"--teacher-folds must be 0 or at least 2, got {self.teacher_folds}")
        if self.student not in (None, *STUDENTS):
            raise WrpError(f"--student must be one of {', '.join(STUDENTS)}, got {self.student!r}")
        if self.student == "st++" and self.teacher_steps < 3:
            raise WrpError(f"--student st++ needs --teacher-steps of at least 3, got {self.teacher_steps}")
        if self.student == "three-stage" and self.teacher_batch < 2:
            raise WrpError(f"--student three-stage needs a --teacher-batch of at least 2, got {self.teacher_batch}")
        if self.on_error not in ("stop", "skip"):
            raise WrpError(f"--on-error must be stop or skip, got {self.on_error!r}")
        if self.limit is not None and self.limit < 0:
            raise WrpError(f"--limit must be at least 0, got {self.limit}")
        if self.workers < 0:
            raise WrpError(f"--workers must be at least 0, got {self.workers}")

    @property
    def needs_teacher(self) -> bool:
        """Whether a listed method or the student needs the teacher."""
        methods = make_methods(list(self.methods)).values()
        return self.student == "cisc-r" or any(chosen.needs.teacher for chosen in methods)

    @property
    def needs_refiner(self) -> bool:
        """Whether a listed method needs the refiner."""
        return any(chosen.needs.refiner for chosen in make_methods(list(self.methods)).values())

    def claim_folder(self, labels: str, frames: dict[str, str]) -> None:
        """Make the output folder this run's; what other settings or labels made there is never mixed with it.

        Args:
            labels: Hash of the labels that the run learns from.
            frames: Hash of the frames of each clip.

        Raises:
            WrpError: If a run with other settings, labels or frames was written there, or a folder there is a symbolic
                link.
        """
        out = Path(self.out)
        for folder in out.iterdir():
            if folder.is_dir():
                make_folder(folder)
        path = out / "settings.json"
        given = {name: getattr(self, name) for name in ("teacher", "refiner") if getattr(self, name) is not None}
        networks = {name: checksum(Path(found).read_bytes()) for name, found in given.items() if Path(found).is_file()}
        mine = self.as_json() | {"labels": labels}
        theirs = recorded(path)
        changed = (key for key in mine if key not in _FREE and theirs.get(key) != mine[key])
        if path.is_file() and (key := next(changed, None)) is not None:
            if key == "labels":
                raise _taken(out, "a run that has learned from other labels than there are now")
            raise _taken(out, f"a run with {key}={theirs.get(key)!r}, got {mine[key]!r}")
        known, clip = _join(theirs.get("frames"), frames)
        if clip is not None:
            raise _taken(out, f"labels for other frames of clip {clip} than there are now")
        used, network = _join(theirs.get("networks"), networks)
        if network is not None:
            raise _taken(out, f"a run with another {network} than {given[network]} is now")
        write_json(path, mine | {"frames": known, "networks": used})

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON would return them."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        settings["root"] = str(find_folder(self.root).resolve())
        del settings["out"]
        return settings


def recorded(path: Path) -> dict[str, Any]:
    """The settings that a folder's files were made with, nothing in a folder that was just made.

    Raises:
        WrpError: If they are damaged, or missing though there are files that were made with some.
    """
    remedy = "put a copy in its place, or choose another --out"
    if path.is_file():
        return read_json(path, f"it says what the files beside it were made with: {remedy}")
    made = [name for name in names_in(path.parent) if name != MARKER]
    if made:
        raise WrpError(f"there is no {path}, which says what {made[0]} beside it was made with: {remedy}")
    return {}


def _taken(out: Path, what: str) -> WrpError:
    return WrpError(f"{out} holds {what}; choose another --out, or delete it to start anew")


def _join(recorded: Any, hashes: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Hashes by name, those that were recorded before and those of now, and the first name at which they differ."""
    known = recorded if isinstance(recorded, dict) else {}
    differing = (name for name, found in hashes.items() if known.get(name, found) != found)
    return known | hashes, next(differing, None)


# May change between the runs of one folder: it does not change results.
_FREE = ("on_error", "workers", "flow_cache", "shard", "limit", "student")


def read_settings(given: dict[str, Any], config: str | None = None) -> Settings:
    """Settings from those that were given, and the others from a file, YAML or JSON, that names them as here.

    Args:
        given: Settings by name; lists may be texts with commas.
        config: The file, for example the ``settings.json`` of another run; None: none.

    Raises:
        WrpError: If the file cannot be read, or a setting is missing, unknown or of another kind.
    """
    from jsonargparse import ArgumentParser

    read: Any = {}
    if config is not None:
        try:
            read = parse_yaml(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError) as error:
            raise WrpError(f"--config {config} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(read, dict):
            raise WrpError(f"--config {config} must name settings, lines `name: value`, got a {type(read).__name__}")
        for added in ("labels", "networks", "frames"):  # by a run, see Settings.claim_folder
            read.pop(added, None)
    known = {setting.name for setting in fields(Settings)}
    if unknown := [str(name) for name in read if name not in known]:
        raise WrpError(f"--config {config}: there is no setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    settings = {**read, **given}
    for name in ("methods", "clips"):
        if isinstance(settings.get(name), str):
            settings[name] = split_names(settings[name])
    if missing := [name for name in ("root", "out") if name not in settings]:
        raise WrpError(f"{' and '.join(missing)} must be given, on the command line or in --config FILE")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Settings)
    try:
        return Settings(**parser.parse_object(settings).as_dict())
    except WrpError:
        raise
    except Exception as error:  # jsonargparse's own, and what the types and paths raise
        raise WrpError(f"settings{' of ' + config if config else ''}: {str(error).strip()}") from error


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a comma-separated list."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
