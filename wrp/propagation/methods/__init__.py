"""Propagation methods: ways to label a frame between keyframes, one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wrp.errors import WrpError, check_choice, did_you_mean
from wrp.io.plugins import plugins
from wrp.propagation.methods.base import KEYFRAMES, PropagationMethod
from wrp.propagation.methods.copy import Copy
from wrp.propagation.methods.inpaint import Inpaint
from wrp.propagation.methods.motion import Motion
from wrp.propagation.methods.refine import Refine
from wrp.propagation.methods.semantic import Semantic
from wrp.propagation.methods.vote import Vote, VoteOnce

METHODS: dict[str, type[PropagationMethod[Any]]] = {
    "copy": Copy,
    "motion": Motion,
    "vote-once": VoteOnce,
    "vote": Vote,
    "semantic": Semantic,
    "inpaint": Inpaint,
    "refine": Refine,
}
"""The package's own methods by name."""


def known_methods() -> dict[str, type[PropagationMethod[Any]]]:
    """Return all methods by name: this package's own, then those of the entry points ``wrp.methods``.

    Raises:
        WrpError: If a method of another package cannot be imported, or is not a PropagationMethod.

    Example:
        >>> list(known_methods())[:3]
        ['copy', 'motion', 'vote-once']
    """
    added = plugins("wrp.methods", METHODS)
    for name, kind in added.items():
        if not (isinstance(kind, type) and issubclass(kind, PropagationMethod)):
            raise WrpError(
                f"the entry point {name!r} in wrp.methods is {kind!r}, expected a subclass of PropagationMethod"
            )
    return METHODS | added


def make_methods(
    names: Sequence[str], known: Mapping[str, type[PropagationMethod[Any]]] = METHODS
) -> dict[str, PropagationMethod[Any]]:
    """Make methods by name.

    Args:
        names: ``<name>`` or ``<name>:<keyframes>``, e.g. ``motion`` or ``motion:previous``.
        known: Methods by name, in addition to those of :func:`known_methods`.

    Returns:
        The methods by ``names``.

    Raises:
        WrpError: If there are no names, a name is repeated or unknown, or a method cannot work from these keyframes.

    Example:
        >>> {name: method.keyframes for name, method in make_methods(["copy", "motion:previous"]).items()}
        {'copy': 'both', 'motion:previous': 'previous'}
    """
    known = {**known_methods(), **known}
    if not names or len(set(names)) < len(names):
        raise WrpError(f"methods must be some of {', '.join(known)}, each once; got {', '.join(names) or 'none'}")
    return {name: _make_method(name, known) for name in names}


def _make_method(method: str, known: Mapping[str, type[PropagationMethod[Any]]]) -> PropagationMethod[Any]:
    name, colon, keyframes = method.partition(":")
    check_choice("method", name, known, ", as is or with :keyframes")
    kind = known[name]
    for which in KEYFRAMES:
        if colon and which == keyframes and which in kind.works_from:
            return kind(which)
    if colon:
        takes = ", ".join(f"{name}:{which}" for which in KEYFRAMES if which in kind.works_from) or "no keyframes"
        meant = did_you_mean(keyframes, kind.works_from)
        raise WrpError(f"unknown method {method!r}{meant or ':'} {name} takes {takes}")
    return kind()
