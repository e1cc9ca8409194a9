"""Label images and videos with a trained network: what ``wrp.load`` returns."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Self

from wrp.errors import DataError, WrpError, in_short
from wrp.flow.prefetch import prefetch
from wrp.io.checkpoints import load_module
from wrp.io.images import read_image
from wrp.io.label_map import numbered_classes, read_label_map
from wrp.io.networks import network_in
from wrp.io.opening import upright
from wrp.io.video import is_video, open_video
from wrp.segmentation.inference import labels_by_tiles
from wrp.structures import LabelMap, VideoFrame

logger = logging.getLogger("wrp")

TILE = 2048
"""Images of more than this number squared of pixels are labelled tile by tile."""

GPU_IMAGES = 8
"""Images that a GPU labels in one call. A CPU labels them one by one, which takes no longer and less memory."""

Picture = Tensor | np.ndarray | Image.Image | str | Path | VideoFrame
"""What can be labelled.

A tensor is (3, H, W) or (B, 3, H, W), an array (H, W, 3) or (B, H, W, 3), both RGB, uint8 or floating point in [0, 1];
a path is that of an image or of a video.
"""


class Labeler:
    """A trained network that labels images and videos, with the names and colours of its classes.

    Args:
        module: A :class:`~wrp.SegmentationModule`, or another module with ``num_classes`` and ``probabilities``; it is
            put into evaluation mode.
        label_map: Its classes.
        tile: Images of more than this number squared of pixels are labelled tile by tile, in bounded memory.
        batch_size: Images of one size that are labelled in one call; None: 1 on a CPU, 8 on a GPU.

    Raises:
        WrpError: If the network has another number of classes, or a number is out of range.

    Example:
        >>> import wrp
        >>> from wrp.options import NetworkArgs
        >>> label_map = LabelMap((0, 7), ("sky", "road"), ((70, 130, 180), (128, 64, 128)))
        >>> labeler = Labeler(wrp.SegmentationModule(2, NetworkArgs("FPN", "tu-regnetx_002")), label_map)
        >>> labels, confidence = labeler.predict(np.zeros((48, 64, 3), np.uint8))
        >>> labels.shape, labels.dtype, confidence.dtype, labeler.names
        (torch.Size([48, 64]), torch.uint8, torch.float32, ('sky', 'road'))
    """

    def __init__(self, module: Any, label_map: LabelMap, tile: int = TILE, batch_size: int | None = None) -> None:
        if label_map.num_classes != module.num_classes:
            raise WrpError(f"the network knows {module.num_classes} classes, {label_map.num_classes} were named")
        for name, number in (("tile", tile), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise WrpError(f"{name} must be at least 1, got {number}")
        self.module = module.eval()
        self.label_map = label_map
        self.tile = tile
        self.batch_size = batch_size

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes 0 … C-1."""
        return self.label_map.names

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """The RGB colours of the classes, 0 … 255."""
        return self.label_map.colors

    @property
    def device(self) -> torch.device:
        """The device on which images are labelled."""
        return next((tensor.device for tensor in self.module.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> Self:
        """Move the network to another device; raise WrpError if it cannot be used."""
        try:
            self.module.to(device)
        except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without the device
            raise WrpError(f"the device {device} cannot be used: {in_short(error)}") from error
        return self

    def predict(self, images: Picture | Iterable[Picture]) -> tuple[Tensor, Tensor]:
        """Label an image, a batch of images, or all frames of a video, which then have to fit into memory.

        Args:
            images: A :data:`Picture`, or several images of one size.

        Returns:
            Labels (H, W) uint8, the indices 0 … C-1 of the classes, and confidence (H, W) float32 in [0, 1], the
            probability that the network gives to the label. Of a batch, a video or several images, (B, H, W). Those of
            a tensor are on its device, all others on the CPU.

        Raises:
            WrpError: If an image has another shape, type or range, cannot be read, or the sizes differ.
        """
        if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
            return self._label(_tensor(images))
        if isinstance(images, Picture) and not _is_video(images):
            labels, confidence = self._label(_read(images)[None])
            return labels[0], confidence[0]
        found = list(self.stream(images))
        if not found:
            raise WrpError("there is no image to label")
        if len(sizes := {tuple(labels.shape) for labels, _ in found}) > 1:
            raise WrpError(f"images of one call must have one size, got (H, W) {sorted(sizes)}: use stream")
        labels, confidence = (torch.stack(maps) for maps in zip(*found, strict=True))
        return labels, confidence

    def stream(self, images: Picture | Iterable[Picture]) -> Iterator[tuple[Tensor, Tensor]]:
        """Label many images, or the frames of a video, one after the other: nothing is kept of those that are done.

        The next images are read while one is labelled.

        Args:
            images: The path of a video, or images of any sizes.

        Yields:
            Labels (H, W) uint8 and confidence (H, W) float32 in [0, 1] of each image, as :meth:`predict` returns them.

        Raises:
            WrpError: As :meth:`predict`, when the image is reached.
        """
        if isinstance(images, Picture):
            images = _frames(images) if _is_video(images) else [images]
        waiting: list[Tensor] = []
        reading = prefetch(map(_read, images))
        try:
            for image in reading:
                if waiting and (image.shape, image.dtype) != (waiting[0].shape, waiting[0].dtype):
                    yield from self._flush(waiting)
                waiting.append(image)
                if len(waiting) == self._images_per_call(image):
                    yield from self._flush(waiting)
            yield from self._flush(waiting)
        finally:
            reading.close()

    def _flush(self, waiting: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Label the images that wait, of one size, and forget them."""
        if not waiting:
            return
        labels, confidence = self._label(torch.stack(waiting))
        waiting.clear()
        yield from zip(labels, confidence, strict=True)

    def _images_per_call(self, image: Tensor) -> int:
        """Return how many images of this size are labelled in one call: together no more than a tile has pixels."""
        most = self.batch_size or (1 if self.device.type == "cpu" else GPU_IMAGES)
        return max(1, min(most, self.tile**2 // (image.shape[-2] * image.shape[-1])))

    @torch.no_grad()
    def _label(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Label images (B, 3, H, W), some at a time, and return the result on their device."""
        parts = [
            [maps.to(images.device) for maps in labels_by_tiles(self.module.probabilities, part, self.tile)]
            for part in (part.to(self.device) for part in images.split(self._images_per_call(images)))
        ]
        labels, confidence = (torch.cat(maps) for maps in zip(*parts, strict=True))
        return labels, confidence


def load(
    path: str | Path,
    net: nn.Module | None = None,
    classes: str | Path | LabelMap | None = None,
    device: torch.device | str | None = None,
    tile: int = TILE,
    batch_size: int | None = None,
) -> Labeler:
    """Load a trained segmentation network to label images and videos with.

    Args:
        path: Checkpoint of a :class:`~wrp.SegmentationModule`, as `wrp fit` and `wrp autolabel` write it (a student or
            a teacher), its weights as ``.safetensors``, the folder of a published model, or that of a run: its
            student if it has one, else its teacher.
        net: The network, if it is one of your own: the checkpoint fills it with weights. Not needed where the
            environment variable ``WRP_SAFE`` names its package and the checkpoint holds its arguments.
        classes: The classes in the order of the network's logits, or a classes.yaml with them; None: those in the
            checkpoint. One that an earlier version wrote has none: then they are ``class 0`` and so on.
        device: Where images are labelled; None: on an accelerator if there is one, else on the CPU.
        tile: See :class:`Labeler`.
        batch_size: See :class:`Labeler`.

    Raises:
        WrpError: If there is no checkpoint, it is damaged or that of another module, its network is one of your own and
            ``net`` is not given, or the classes do not fit.

    Example:
        >>> import tempfile
        >>> import wrp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wrp.load(Path(folder, "student.ckpt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no checkpoint ...student.ckpt
    """
    from wrp.segmentation.module import SegmentationModule  # here, as it brings Lightning

    checkpoint = network_in(Path(path))
    module = load_module(SegmentationModule, checkpoint, **({} if net is None else {"net": net}))
    if classes is None:
        label_map = module.label_map or numbered_classes(module.num_classes)
        if module.label_map is None:
            logger.warning(
                "%s does not hold the names and colours of its %d classes, which are numbered instead: name the "
                "classes.yaml of the data that it was trained on (in Python classes=FILE, else --classes FILE)",
                checkpoint,
                module.num_classes,
            )
    else:
        label_map = classes if isinstance(classes, LabelMap) else read_label_map(Path(classes))
    return Labeler(module, label_map, tile, batch_size).to(_device() if device is None else device)


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _is_video(image: Any) -> bool:
    return isinstance(image, str | Path) and Path(image).is_file() and is_video(Path(image))


def _frames(path: Any) -> Iterator[VideoFrame]:
    return (VideoFrame(Path(path), number) for number in range(len(open_video(Path(path)))))


def _read(image: Any) -> Tensor:
    """Return one image as a tensor (3, H, W)."""
    if isinstance(image, VideoFrame):
        return read_image(image)
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise WrpError(f"{image} is a folder, expected an image or a video; `wrp predict-images` labels folders")
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise DataError(f"the image has more than 8 bits per channel (mode {image.mode!r}), expected 8")
        image = np.array(upright(image).convert("RGB"))
    if not isinstance(image, Tensor | np.ndarray) or image.ndim != 3:
        shape = f" of shape {tuple(image.shape)}" if isinstance(image, Tensor | np.ndarray) else ""
        raise WrpError(
            "an image is a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), got "
            f"{'an' if isinstance(image, np.ndarray) else 'a'} {type(image).__name__}{shape}"
        )
    return _tensor(image[None])[0]


def _tensor(images: Tensor | np.ndarray) -> Tensor:
    """Return images as a tensor (B, 3, H, W)."""
    if isinstance(images, Tensor):
        if images.shape[1] != 3:
            raise WrpError(f"a tensor of images is (3, H, W) or (B, 3, H, W), RGB, got {tuple(images.shape)}")
        return images
    if images.shape[-1] != 3:
        raise WrpError(f"an array of images is (H, W, 3) or (B, H, W, 3), RGB, got {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
