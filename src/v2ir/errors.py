"""The exception tree. Every error says what is wrong, what was got and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class V2IRError(Exception):
    """Base of all errors that v2ir raises on purpose.

    Args:
        what: What is wrong, in one clause.
        got: What was found instead, if that helps.
        do: What the user can do about it.
    """

    def __init__(self, what: str, *, got: str | None = None, do: str | None = None) -> None:
        self.what, self.got, self.do = what, got, do
        parts = [what]
        if got:
            parts.append(f"got: {got}")
        if do:
            parts.append(f"to do: {do}")
        super().__init__("; ".join(parts))

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.got, self.do))


def _rebuild(kind: type[V2IRError], what: str, got: str | None, do: str | None) -> V2IRError:
    return kind(what, got=got, do=do)


class InputError(V2IRError, ValueError):
    """An argument or an input file cannot be used as it is."""


class ImageReadError(InputError):
    """A file is not an image that can be read completely."""


class DataError(V2IRError, ValueError):
    """A data set is missing something or contradicts itself."""


class ModelError(V2IRError, ValueError):
    """A model folder is incomplete, or its parts do not fit together."""


class RunError(V2IRError, RuntimeError):
    """A run folder cannot be continued with what was asked."""


class OutputError(V2IRError, OSError):
    """A result cannot be written."""


class MissingExtraError(V2IRError, ImportError):
    """An optional package is needed. The message names the extra that brings it."""


class UnknownNameError(V2IRError, LookupError):
    """A name is not in a registry. The message lists the nearest names."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the error for `name`, which is not one of the `known` names of a `kind`."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        cure = f"did you mean {' or '.join(near)}? " if near else ""
        return cls(f"unknown {kind}", got=repr(name), do=f"{cure}known: {', '.join(names)}")
