"""Checkpoints that are written whole or not at all, and read without running code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from wrp.errors import WrpError, in_short
from wrp.io.writing import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Plugin of the Trainer that writes checkpoints atomically: to a temporary file beside it, flushed, then renamed.

    Lightning's own plugin moves the file from the system's temporary folder. If that is another disk, a full disk
    leaves half of a checkpoint behind, and a folder without write permission is ignored silently (2.6.6).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     WholeCheckpointIO().save_checkpoint({"epoch": 3}, f"{folder}/last.ckpt")
        ...     WholeCheckpointIO().load_checkpoint(f"{folder}/last.ckpt")
        {'epoch': 3}
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, local or remote.

        Only tensors and plain values are read, whatever ``weights_only`` is: no code of the file is run.

        Raises:
            WrpError: If the file holds anything else, or is damaged.
            OSError: If it cannot be opened.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise WrpError(f"{path} cannot be read as a checkpoint: {in_short(error)}") from error

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; remote paths are left to Lightning.

        Raises:
            OSError: If the file cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # To memory first: torch's message for a full disk does not tell the reason.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())
