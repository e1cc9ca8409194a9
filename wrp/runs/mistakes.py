"""jsonargparse's messages on one line: where the mistake is, what it is, and the nearest known name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jsonargparse import ArgumentParser

from wrp.errors import did_you_mean, in_short


@dataclass(frozen=True)
class Place:
    """Where in a nested message a line stands.

    Attributes:
        keys: The keys that lead there.
        made_by: Path of the class whose arguments are looked at; empty: none.
        bases: Paths of the classes of which one is expected.

    Example:
        >>> Place(("model", "network")).flag
        '--model.network'
    """

    keys: tuple[str, ...] = ()
    made_by: str = ""
    bases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The place as a flag of the command line."""
        return f"--{'.'.join(self.keys)}"


# Lines that lead to the cause, and those that repeat what was given.
_KEY = re.compile(r'Parser key "([^"]+)":?')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_SUBTYPE = re.compile(r"<class '([^']+)'>")
_REPEATED = (
    "Does not validate against",
    "Errors:",
    "Given value",
    "Expected a path but",
    "Expected a <class 'NoneType'>",
)

# Causes that are told in our words.
_UNKNOWN_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NOT_IN_MODULE = re.compile(r"module '([^']+)' has no attribute '([^']+)'")
_NO_SUBCLASS = re.compile(r"Import path does not correspond to a subclass of (\w+)")
_NOT_ALLOWED = re.compile(r"Importing '[^']+' is not allowed")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_WRONG_TYPE = re.compile(r"Expected a (.*?)(?:\. Got value: (.*))?")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (\S+).*")
_NOT_IN_FILE = re.compile(r"Subcommand '\w+' does not accept option '([^']+)'")


def explain(message: str, options: Iterable[str]) -> str:
    r"""Return the cause of one of jsonargparse's messages on one line.

    Args:
        message: The message, which may have many lines.
        options: The flags of the command, such as ``--trainer.max_steps``.

    Example:
        >>> explain("unrecognized arguments: --trainer.max_step=3", ["--trainer.max_steps"])
        'unrecognized argument --trainer.max_step; did you mean --trainer.max_steps?'
        >>> explain('Parser key "trainer.max_steps":\n  Expected a <class \'int\'>. Got value: few', [])
        "--trainer.max_steps: expected int, got 'few'"
    """
    options = list(options)
    if found := _UNRECOGNIZED.match(message):
        name = found[1].partition("=")[0]
        return f"unrecognized argument {name}{did_you_mean(name, options)}"
    if found := _NOT_IN_FILE.match(message):
        known = [option.removeprefix("--") for option in options]
        # The name of a group may be the one that is misspelt.
        group, name = found[1].partition(".")[0], found[1]
        return f"--config: there is no {name}{did_you_mean(name, known) or did_you_mean(group, known)}"
    if found := _REQUIRED.match(message):
        needed = (f"--{name.rpartition('.')[2]}" for name in found[1].split(", "))
        return f"{' and '.join(needed)} must be given, on the command line or in --config FILE"
    if not re.search(_KEY, message):
        return in_short(ValueError(message))
    causes = [(place, line) for place, line in _causes(message) if not line.startswith(_REPEATED)]
    if not causes:
        return in_short(ValueError(message))
    # One of several types is expected: what does not name a type says more about the mistake.
    telling = [cause for cause in causes if not _WRONG_TYPE.fullmatch(cause[1]) or _UNKNOWN_CLASS.fullmatch(cause[1])]
    if telling:
        return _told(*telling[0], message)
    types = dict.fromkeys(_wrong_type(line)[0] for _, line in causes)
    value = _wrong_type(causes[0][1])[1] or _given(message)
    expected = " or ".join(types)
    meant = did_you_mean(value, re.findall("'([^']+)'", expected)) if value else ""
    return f"{causes[0][0].flag}: expected {expected}, got {value!r}{meant}"


def _causes(message: str) -> Iterator[tuple[Place, str]]:
    """Yield the lines of a message that are no headings, each with its place."""
    headings: list[tuple[int, Place]] = [(-1, Place())]
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ")
        if not line:
            continue
        depth = len(raw) - len(raw.lstrip())
        while headings[-1][0] >= depth:
            headings.pop()
        place = headings[-1][1]
        if found := _KEY.match(line):
            keys = (*place.keys, *(key for key in found[1].split(".") if key not in ("init_args",)))
            headings.append((depth, Place(keys, place.made_by)))
            line = line[found.end() :].strip()
        elif found := _SUBTYPES.match(line):
            # It stands beside the errors that it explains.
            headings[-1] = (headings[-1][0], replace(place, bases=tuple(_SUBTYPE.findall(found[1]))))
            continue
        elif found := _CLASS.match(line):
            headings.append((depth, replace(place, made_by=found[1])))
            continue
        if line:
            yield headings[-1][1], line


def _told(place: Place, line: str, message: str) -> str:
    """Return a cause in our words, with the nearest known name."""
    of = place.made_by.rpartition(".")[2]
    if found := _UNKNOWN_OPTION.match(line):
        name = found[1]
        if name.startswith("init_arg.") or name.startswith("init_args."):
            return f"{place.flag}: there is no {name.partition('.')[0]}; did you mean init_args, below class_path?"
        meant = did_you_mean(name, known := _arguments(place.made_by)) or did_you_mean(name.partition(".")[0], known)
        return f"{place.flag}: {of} has no argument {name}{meant}"
    if found := _UNKNOWN_CLASS.match(line):
        meant = (
            did_you_mean(found[1], _subclasses(place.bases)) or "; expected its name or its path, as in my_package.Mine"
        )
        return f"{place.flag}: there is no class {found[1]!r}{meant}"
    if found := _NOT_IN_MODULE.match(line):
        return f"{place.flag}: {line}{did_you_mean(found[2], dir(sys.modules.get(found[1])))}"
    if found := _NO_SUBCLASS.match(line):
        return f"{place.flag}: expected a subclass of {found[1]}, got {_given(message)!r}"
    if found := _REQUIRED.match(line):
        return f"{place.flag}: {of} needs {found[1]}"
    if found := _NOT_ALLOWED.match(line):
        return f"{place.flag}: {found[0]} under WRP_SAFE: name its package there if you trust it"
    return f"{place.flag}: {in_short(ValueError(line))}" + (f", for {place.made_by}" if of else "")


def _wrong_type(line: str) -> tuple[str, str | None]:
    """Return the type that is expected, and the value that was given, if the line tells it."""
    found = _WRONG_TYPE.fullmatch(line)
    assert found is not None
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", found[1])
    return re.sub(r"typing\.Literal\[(.*)\]", r"\1", name), found[2]


def _given(message: str) -> str:
    """Return the innermost value that was given."""
    found = re.search(r"Given value: (?:NestedArg\(key='[^']*', val=)?(.*?)\)?$", message, re.MULTILINE)
    return found[1].strip("'") if found else ""


def _imported(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _arguments(path: str) -> list[str]:
    """List the arguments of a class, with those that it passes on to its base."""
    if (made_by := _imported(path)) is None:
        return []
    parser = ArgumentParser()
    parser.add_class_arguments(made_by)
    return list(parser.get_defaults().keys())


def _subclasses(bases: Iterable[str]) -> list[str]:
    """List the names of the public subclasses of some classes that have been imported."""
    left, names = [found for path in bases if (found := _imported(path)) is not None and found is not type], set()
    while left:
        kind = left.pop()
        if kind.__name__ not in names:
            names |= {kind.__name__} if not kind.__name__.startswith("_") else set()
            left += kind.__subclasses__()
    return sorted(names)
