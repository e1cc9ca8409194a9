"""Content hashes, which identify a frame whatever its name."""

from __future__ import annotations

import hashlib

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

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


def _hash(frame: Tensor) -> bytes:
    digest = hashlib.blake2b(repr(tuple(frame.shape)).encode(), digest_size=HASH_BYTES)
    digest.update(frame.cpu().contiguous().numpy().data)
    return digest.digest()
