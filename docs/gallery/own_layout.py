"""Read clips where they lie: a data set layout of your own, here video/<clip>/*.png and masks/<clip>/*.png."""

from pathlib import Path

from wrp.data.index import ClipIndex, list_images, make_clip
from wrp.data.synthetic.folder import generate_folder, label_map
from wrp.structures import Frame


def matches(root: Path) -> bool:
    """Tell whether a folder has this layout."""
    return (root / "video").is_dir() and (root / "masks").is_dir()


def read_index(root: Path, split: str | None = None) -> ClipIndex:
    """List the clips with their frames and labels."""
    clips = []
    for folder in sorted((root / "video").iterdir()):
        masks = {path.stem: path for path in list_images(root / "masks" / folder.name)}
        frames = [Frame(path.stem, path, masks.get(path.stem)) for path in list_images(folder)]
        clips.append(make_clip(folder.name, frames))
    return ClipIndex(root, "video-and-masks", label_map(10), tuple(clips))


# Registered as an entry point `wrp.layouts` of a package of yours, every command knows it by its name.
if __name__ == "__main__":
    scene, root = generate_folder(Path("scene"), num_frames=13, height=64, width=112), Path("other-layout")
    root.mkdir(exist_ok=True)
    for theirs, ours in (("video", "frames"), ("masks", "labels")):
        if not (root / theirs).exists():
            (root / theirs).symlink_to((scene / ours).absolute())
    [clip] = read_index(root).clips
    print(matches(root), clip.name, len(clip.frames), "frames,", len(clip.keyframes), "labels")
