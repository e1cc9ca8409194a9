"""Content hashes, which identify a frame whatever its name."""

from __future__ import annotations

import hashlib

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from wrp.flow.source import Way
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
    if index in batch.hashes:
        return batch.hashes[index]
    frame = batch.frame(index)
    # One that is read on access may have been hashed just now.
    return batch.hashes[index] if index in batch.hashes else content_hash(frame)


def direct_hash(batch: ClipBatch, index: int, far: int, way: Way) -> bytes:
    """Return a hash of all that a direct flow depends on, besides the estimator: the frames that it passes, in order.

    The flow that it is estimated from is composed of the flows between these frames, and need not be hashed.

    Args:
        batch: Frames of one clip.
        index: Index in the clip of the frame from which the flow leads.
        far: Index of the frame to which it leads.
        way: How the initial flow is composed.

    Returns:
        2 · :data:`HASH_BYTES` bytes.

    Example:
        >>> import torch
        >>> frames = list(torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 4))
        >>> batch = ClipBatch("clip", ["a", "b", "c"], 0, frames, labels={}, queries=(0, 3))
        >>> there, back = direct_hash(batch, 0, 2, "prepend"), direct_hash(batch, 2, 0, "prepend")
        >>> len(there), there == back
        (32, False)
    """
    digest = hashlib.blake2b(f"direct {way}".encode(), digest_size=2 * HASH_BYTES)
    step = 1 if far > index else -1
    for passed in range(index, far + step, step):
        digest.update(frame_hash(batch, passed))
    return digest.digest()


def _hash(frame: Tensor) -> bytes:
    digest = hashlib.blake2b(repr(tuple(frame.shape)).encode(), digest_size=HASH_BYTES)
    digest.update(frame.cpu().contiguous().numpy().data)
    return digest.digest()
