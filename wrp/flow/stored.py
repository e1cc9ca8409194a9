"""Flow that another program made, read from files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.errors import DataError, WrpError, check_choice
from wrp.flow.estimator import FlowEstimator
from wrp.io.opening import MAX_PIXELS, opened_image
from wrp.structures import FramePair

# Most bytes of an array, which may come from a small compressed file: two float64 for each pixel, and a header.
MAX_BYTES = 16 * MAX_PIXELS + 4096


class Stored(FlowEstimator):
    """Flow read from disk by the names of the two frames.

    ``.flo`` (Middlebury), ``.png`` (KITTI: 16 bit, invalid pixels have no flow), ``.npy`` and ``.npz`` (its only array;
    (2, H, W) or (H, W, 2), in pixels).

    Args:
        root: Folder of the files.
        pattern: Path below ``root`` of the flow from one frame to another, with ``{clip}``, ``{source}`` and
            ``{target}`` for the name of the clip and the names of the frames without suffix.

    Raises:
        WrpError: If the folder is missing, or the pattern does not name both frames or ends in another suffix.

    Example:
        >>> import tempfile
        >>> frames = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     np.save(Path(root, "a_b.npy"), np.ones((2, 4, 6), np.float32))
        ...     flow = Stored(root, "{source}_{target}.npy")
        ...     print(flow(frames, frames, pairs=[FramePair("clip", source="a", target="b")]).shape)
        torch.Size([1, 2, 4, 6])
    """

    any_frames = False
    sparse = True

    def __init__(self, root: str, pattern: str = "{clip}/{source}_{target}.flo") -> None:
        super().__init__()
        if not Path(root).is_dir():
            raise WrpError(f"there is no folder {root} with stored flow")
        if "{source}" not in pattern or "{target}" not in pattern:
            raise WrpError(f"the pattern of stored flow must hold {{source}} and {{target}}, got {pattern!r}")
        check_choice("suffix of stored flow", Path(pattern).suffix, _READERS)
        try:
            pattern.format(clip="", source="", target="")
        except (KeyError, IndexError, ValueError) as error:
            raise WrpError(
                f"the pattern of stored flow knows {{clip}}, {{source}} and {{target}} alone, got {pattern!r}"
            ) from error
        self.root = root
        self.pattern = pattern

    @property
    def signature(self) -> str:
        """Where the flow comes from; files that change are not noticed."""
        return f"stored {Path(self.root).resolve()} {self.pattern}"

    @property
    def reads(self) -> set[Path]:
        """The folder of the files."""
        return {Path(self.root).resolve()}

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        """Read each pair; see :class:`FlowEstimator`.

        Raises:
            WrpError: If the frames come without names.
            DataError: If a file is missing, damaged or of another size.
        """
        if pairs is None:
            raise WrpError("stored flow is found by the names of frames: pass pairs=")
        flows = []
        for pair in pairs:
            path = Path(self.root, self.pattern.format(clip=pair.clip, source=pair.source, target=pair.target))
            flow = read_flow(path)
            if flow.shape[1:] != frames_s.shape[2:]:
                raise DataError(
                    f"{path} holds flow of {flow.shape[2]}×{flow.shape[1]} pixels, the frames are "
                    f"{frames_s.shape[3]}×{frames_s.shape[2]}"
                )
            flows.append(torch.from_numpy(flow))
        return torch.stack(flows).to(frames_s.device)


def read_flow(path: Path) -> np.ndarray:
    """Read the flow of one file.

    Args:
        path: ``.flo``, ``.png``, ``.npy`` or ``.npz``, see :class:`Stored`.

    Returns:
        (2, H, W) float32 in pixels; NaN where the file has no flow.

    Raises:
        DataError: If the file is missing or does not hold flow.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "flow.npy"), np.ones((4, 6, 2), np.float32))
        ...     print(read_flow(Path(folder, "flow.npy")).shape)
        (2, 4, 6)
    """
    if not path.is_file():
        raise DataError(f"there is no stored flow {path}")
    try:
        flow = _READERS[path.suffix](path)
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises whatever error its parts meet first
        reason = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path} cannot be read as flow: {reason[0][:200]}") from error
    if not isinstance(flow, np.ndarray):
        raise DataError(f"{path} holds several arrays, expected flow (2, H, W) or (H, W, 2)")
    if flow.ndim == 3 and flow.shape[0] != 2 and flow.shape[2] == 2:
        flow = flow.transpose(2, 0, 1)
    if flow.ndim != 3 or flow.shape[0] != 2 or flow.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {flow.dtype} {flow.shape}, expected flow (2, H, W) or (H, W, 2)")
    return np.array(flow, np.float32, order="C")


def _read_flo(path: Path) -> np.ndarray:
    data = path.read_bytes()
    width, height = np.frombuffer(data, "<i4", 2, 4) if len(data) >= 12 else (0, 0)
    # the format's mark, 202021.25 as float32, is "PIEH" in bytes
    if data[:4] != b"PIEH" or min(width, height) < 1 or len(data) != 12 + 8 * int(width) * int(height):
        raise ValueError(f"no .flo file, or cut short: {len(data)} bytes")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def _read_kitti(path: Path) -> np.ndarray:
    with opened_image(path) as header:  # for its size and its checksums: Pillow has no RGB of 16 bits
        if header.format != "PNG":
            raise ValueError(f"a {header.format}, expected a PNG")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError("no 16-bit RGB PNG of KITTI's flow")
    valid, y, x = image.astype(np.float32).transpose(2, 0, 1)  # OpenCV turns RGB into BGR
    flow = (np.stack((x, y), 2) - 2**15) / 64
    flow[valid == 0] = np.nan
    return flow


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) != 1:
            raise ValueError(f"holds {len(entries)} arrays, expected one")
        if entries[0].file_size > MAX_BYTES:
            raise ValueError(f"its array takes {entries[0].file_size} bytes, more than any flow")
        with archive.open(entries[0]) as file:
            flow: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return flow


_READERS = {
    ".flo": _read_flo,
    ".png": _read_kitti,
    ".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False),  # mapping fails for a file that is cut short
    ".npz": _read_npz,
}
