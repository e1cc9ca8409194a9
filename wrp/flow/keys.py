"""What identifies a frame whatever its name: its content."""

from __future__ import annotations

import hashlib

from torch import Tensor

KEY_BYTES = 16


def frame_key(frame: Tensor) -> bytes:
    """Hash of size and content of a frame (3, H, W) uint8, :data:`KEY_BYTES` long."""
    digest = hashlib.blake2b(repr(tuple(frame.shape)).encode(), digest_size=KEY_BYTES)
    digest.update(frame.cpu().contiguous().numpy().data)
    return digest.digest()
