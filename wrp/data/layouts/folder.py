"""The package's own layout: ``frames/<clip>/<stem>.{png,jpg}``, ``labels/<clip>/<stem>.png``, ``classes.yaml``.

Frames are taken in the order of the numbers in their names; a clip may be a video file ``frames/<clip>.mp4`` instead,
whose labels have the number of their frame, from 0, in their names. Only the labelled frames need a label file.
Without a ``classes.yaml`` labels have to be indexed PNGs, whose palette and values make the classes. A split is a list
``splits/<split>.txt`` of names of clips.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wrp.data.index import ClipIndex, make_clip, read_list
from wrp.errors import DataError
from wrp.io.label_map import map_from_palettes, note_on_names, read_label_map
from wrp.io.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    frame_numbers,
    gaps,
    list_folders,
    list_images,
    list_labels,
    same_form,
    visible,
)
from wrp.io.video import is_video, open_video
from wrp.structures import Frame, LabelMap, VideoFrame

# Names that are often given to the folder of the labels.
MISNAMED = ("label", "masks", "mask", "annotations", "ground_truth", "gt")


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "frames").is_dir()


def read_index(root: Path, split: str | None = None, classes: LabelMap | None = None) -> ClipIndex:
    """Index the clips under ``root``, or those that ``splits/<split>.txt`` lists.

    Without labels and a classes.yaml, the classes are ``classes``, if given.

    Frames and labels that would be left out are ``problems`` of the index, so that all of them can be named at once;
    clips with such a problem are ``broken``.

    Raises:
        DataError: If there is no clip, or the classes or the list of the split cannot be read.
    """
    problems: list[str] = []
    broken: dict[str, str] = {}
    notes: list[str] = []
    sources = _sources(root, problems, notes)
    _check_labels(root, sources, problems, notes)
    found = list_folders(root / "labels") if (root / "labels").is_dir() else []
    labels = {same_form(folder.name): folder for folder in found}
    listed = read_list(root / "splits" / f"{split}.txt") if split is not None else list(sources)
    names = {same_form(name): name for name in sources}
    if unknown := sorted(name for name in listed if same_form(name) not in names):
        raise DataError(
            f"{root / 'splits' / f'{split}.txt'} names {unknown[0]!r}, which is no clip in {root / 'frames'}"
        )
    wanted = {names[same_form(name)] for name in listed}
    clips, unused = [], list[Path]()
    for name, source in sources.items():
        if name not in wanted:
            continue
        files: list[Path] = []
        try:
            place = labels.get(same_form(name), root / "labels" / name)
            files = list(list_labels(place).values())
            frames = frames_of(name, source, place, notes)
        except DataError as error:
            broken[name] = str(error)
            unused += files
            continue
        if frames:
            clips.append(make_clip(name, frames))
    if not clips and not problems and not broken:
        raise DataError(f"{root / 'frames'} holds no clips; expected frames/<clip>/<stem>.png or .jpg, or videos")
    used = [frame.label for clip in clips for frame in clip.frames if frame.label is not None]
    # What is wrong with a clip says nothing of the classes of its labels.
    label_map = _classes(root, used or unused, [*problems, *broken.values()], classes, notes)
    return ClipIndex(
        root, "folder", label_map, tuple(clips), notes=tuple(notes), problems=tuple(problems), broken=broken
    )


def _classes(root: Path, labels: list[Path], problems: list[str], given: LabelMap | None, notes: list[str]) -> LabelMap:
    """Read what the values of labels mean; where that fails beside other problems, they are all named."""
    path = root / "classes.yaml"
    if not labels and not path.is_file():
        if given is not None:
            return given
        if problems:  # once they are mended, there may be labels that need no classes.yaml
            raise DataError("\n".join(problems))
    try:
        if path.is_file() or not labels:
            return read_label_map(path)
        label_map = map_from_palettes(labels)
    except DataError as error:
        raise DataError("\n".join([*problems, str(error)])) from error
    notes.append(note_on_names(label_map, path))
    return label_map


def _sources(root: Path, problems: list[str], notes: list[str]) -> dict[str, Path]:
    """Return the folder or the video of each clip, by name."""
    found: dict[str, Path] = {}
    for path in visible(root / "frames"):
        name = path.name if path.is_dir() else path.stem
        if path.is_symlink() and not path.exists():
            problems.append(f"{path} is a broken link: it points to {path.readlink()}, which does not exist")
        elif not path.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES:
            problems.append(f"{path} belongs to no clip: frames lie in a folder of their clip, frames/<clip>/")
        elif not path.is_dir() and not is_video(path):
            notes.append(f"{path} is not read: it is neither a folder nor a video")
        elif name in found:
            problems.append(f"{root / 'frames'} holds two clips named {name!r}; every clip needs a name of its own")
        else:
            found[name] = path
    return dict(sorted(found.items()))


def _check_labels(root: Path, sources: dict[str, Path], problems: list[str], notes: list[str]) -> None:
    """Find labels that belong to no clip, and names that are nearly those that are read."""
    folder, names = root / "labels", {same_form(name) for name in sources}
    if not folder.is_dir() and (others := [name for name in MISNAMED if (root / name).is_dir()]):
        problems.append(f"{root / others[0]} is not read: labels are expected in {folder}; rename it")
    if (root / "classes.yml").is_file() and not (root / "classes.yaml").is_file():
        problems.append(f"{root / 'classes.yml'} is not read; rename it to classes.yaml")
    for path in visible(folder) if folder.is_dir() else []:
        if path.is_dir() and same_form(path.name) not in names:
            problems.append(
                f"{path} holds labels of no clip: there is no folder {root / 'frames' / path.name}, nor a video; give "
                "it the name of its clip, or remove it"
            )
        elif not path.is_dir() and path.suffix.lower() in LABEL_SUFFIXES:
            clip = next(iter(sources)) if len(sources) == 1 else "<clip>"
            problems.append(f"{path} belongs to no clip: move it to its clip's folder, {folder / clip}, or remove it")
        elif not path.is_dir():
            notes.append(f"{path} is not read")


def frames_of(
    name: str, source: Path, folder: Path | None, notes: list[str], passed: Collection[Path] = ()
) -> list[Frame]:
    """Return the frames of a clip with their labels.

    Args:
        name: Name of the clip.
        source: Its video, or the folder of its frames.
        folder: Folder of its labels; None: it has none.
        notes: Gets a line for each kind of file that is not read, and for gaps in the numbers.
        passed: Files and folders beside the labels that need no such line.

    Raises:
        DataError: If a label belongs to no frame, or a frame or label cannot be told from another.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     Path(place, "labels").mkdir()
        ...     for file in ("0.jpg", "1.jpg", "labels/1.png"):
        ...         Path(place, file).touch()
        ...     [frame.label is None for frame in frames_of("street", Path(place), Path(place, "labels"), [])]
        [True, False]
    """
    labels = list_labels(folder) if folder is not None else {}
    frames = _of_video(source, labels) if source.is_file() else _of_folder(source, labels)
    _note_unused(folder, source, frames, notes, passed)
    if source.is_dir():
        breaks = gaps([frame.stem for frame in frames])
        notes += [f"clip {name}: numbers go from {before} to {after}; are frames missing?" for before, after in breaks]
    return frames


def _of_folder(folder: Path, labels: dict[str, Path]) -> list[Frame]:
    frames = [Frame(image.stem, image, labels.get(same_form(image.stem))) for image in list_images(folder)]
    known = {same_form(frame.stem) for frame in frames}
    if lost := [path for stem, path in labels.items() if stem not in known]:
        stems = f"the frames are {frames[0].stem} … {frames[-1].stem}" if frames else "there are no frames"
        raise DataError(f"{lost[0]} is the label of no frame in {folder}: a label has the name of its frame; {stems}")
    return frames


def _of_video(path: Path, labels: dict[str, Path]) -> list[Frame]:
    given: dict[int, Path] = {}
    numbers = frame_numbers(labels, same_form(path.name))
    for stem, label in labels.items():
        if stem not in numbers:
            raise DataError(
                f"{label}: it is not clear which frame of the video {path.name} this is the label of; expected the "
                "frame's number as the only one in the name, besides what all names share, such as 000012.png"
            )
        if numbers[stem] in given:
            raise DataError(f"{given[numbers[stem]]} and {label} are labels of one frame; remove one of them")
        given[numbers[stem]] = label
    count = len(open_video(path)) if path.is_file() else 0
    if lost := [label for number, label in given.items() if number >= count]:
        hint = "; are the labels counted from 1?" if 0 not in given and max(given) == count else ""
        raise DataError(
            f"{lost[0]} is the label of no frame in {path}: a label has the number of its frame, and the video has the "
            f"frames 0 … {count - 1}{hint}"
        )
    return [Frame(f"{number:06d}", VideoFrame(path, number), given.get(number)) for number in range(count)]


def _note_unused(
    folder: Path | None, source: Path, frames: list[Frame], notes: list[str], passed: Collection[Path]
) -> None:
    """Note each kind of file beside frames and labels that is not read.

    Raises:
        DataError: If a file is named as the label of a frame that has none.
    """
    labelled = {same_form(frame.stem): frame.label is not None for frame in frames}
    beside = visible(folder) if folder is not None and folder.is_dir() else []
    others = [path for path in beside if path.suffix.lower() not in LABEL_SUFFIXES and path not in passed]
    stems = [same_form(path.stem) for path in others]
    numbers = frame_numbers(stems, same_form(source.name)) if source.is_file() else {}
    for path, stem in zip(others, stems, strict=True):
        stem = f"{numbers[stem]:06d}" if stem in numbers else stem
        if not labelled.get(stem, True):
            raise DataError(
                f"{path} is not read, and frame {stem} has no other label: export it anew as PNG, since JPEG and the "
                f"like change values (labels are read from {', '.join(LABEL_SUFFIXES)}), or remove it"
            )
    if source.is_dir():
        images = {frame.image for frame in frames}
        others += [path for path in visible(source) if path not in images and path not in passed]
    for suffix in sorted({path.suffix for path in others}):
        same = [path for path in others if path.suffix == suffix]
        more = f" and {len(same) - 1} more of its suffix are not read" if len(same) > 1 else " is not read"
        notes.append(f"{same[0]}{more}")
