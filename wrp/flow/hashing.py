"""Content hashes, which identify a frame whatever its name."""

from __future__ import annotations

import hashlib

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from wrp.structures import ClipBatch

HASH_BYTES = 16


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def content_hash(frame: Tensor) -> bytes:
    """Hash the size and the content of a frame (3, H, W) uint8 or of its label (H, W) uint8.

    The hash is remembered for as long as the tensor lives, so the tensor must not be written to.

    Returns:
        :data:`HASH_BYTES` bytes.

    Example:
        >>> import torch
        >>> frame = torch.zeros(3, 2, 4, dtype=torch.uint8)
        >>> len(content_hash(frame)), content_hash(frame) == content_hash(frame.clone())
        (16, True)
    """
    if frame not in _known:
        _known[frame] = _hash(frame)
    key: bytes = _known[frame]
    return key


def frame_hash(batch: ClipBatch, index: int) -> bytes:
    """Return the content hash of a frame of a stretch: the one that came with it, else that of its pixels.

    The data modules hash frames where they decode them, in memory of the host: those on a GPU are not copied back.

    Args:
        batch: Frames of one clip.
        index: Index of the frame in the clip.

    Example:
        >>> import torch
        >>> batch = ClipBatch("clip", ["a"], 0, [torch.zeros(3, 2, 4, dtype=torch.uint8)], labels={}, queries=(0, 1))
        >>> frame_hash(batch, 0) == content_hash(batch.frame(0))
        True
    """
    known = batch.hashes.get(index)
    return content_hash(batch.frame(index)) if known is None else known


def _hash(frame: Tensor) -> bytes:
    digest = hashlib.blake2b(repr(tuple(frame.shape)).encode(), digest_size=HASH_BYTES)
    digest.update(frame.cpu().contiguous().numpy().data)
    return digest.digest()
