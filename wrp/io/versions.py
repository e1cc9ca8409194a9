"""The versions of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = (
    *("wrp", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch"),
    *("timm", "albumentations", "opencv-python-headless", "numpy", "pillow"),
)

# Those of them that the pixels of labels depend on, be it by a rounding error.
_COMPUTING = (
    *("wrp", "torch", "torchvision", "segmentation-models-pytorch", "timm"),
    *("opencv-python-headless", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the installed version of each package in :data:`PACKAGES`, and that of Python."""
    found = {package: version(package) for package in PACKAGES}
    return found | {"Python": platform.python_version()}


def computing(device: str) -> dict[str, str]:
    """Return what computes labels, and changes them by rounding errors at least: kind of device, and versions.

    Args:
        device: Type of the device, such as ``cpu``.
    """
    return {"device": device} | {package: version(package) for package in _COMPUTING}
