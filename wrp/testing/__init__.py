"""Testers for what extends this package, and small clips whose truth is known; needs ``wrp[test]``.

A tester is a class of pytest's tests: subclass it with what you have written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrp.lazy import lazy

if TYPE_CHECKING:
    from wrp.testing.clips import generated_interval, texture, textured_interval
    from wrp.testing.flow import FlowEstimatorTester
    from wrp.testing.layouts import LayoutTester
    from wrp.testing.methods import BrightnessTeacher, IdentityRefiner, PropagationMethodTester

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BrightnessTeacher": "methods",
        "FlowEstimatorTester": "flow",
        "IdentityRefiner": "methods",
        "LayoutTester": "layouts",
        "PropagationMethodTester": "methods",
        "generated_interval": "clips",
        "texture": "clips",
        "textured_interval": "clips",
    },
)

__all__ = [
    "BrightnessTeacher",
    "FlowEstimatorTester",
    "IdentityRefiner",
    "LayoutTester",
    "PropagationMethodTester",
    "generated_interval",
    "texture",
    "textured_interval",
]
