"""A mapping whose values are made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

__all__ = ["Lazy"]

ValueT = TypeVar("ValueT")


class Lazy(Mapping[str, ValueT]):
    """Maps each of ``names`` to what ``make`` returns for it, made once; sorted by name.

    A table has a route for every name, and is built anew with every change; few of them are used before the next.
    """

    def __init__(self, names: Collection[str], make: Callable[[str], ValueT]) -> None:
        self._names = names
        self._make = make
        self._made: dict[str, ValueT] = {}

    def __getitem__(self, name: str) -> ValueT:
        """Return the value, made now if need be."""
        if name not in self._made:
            if name not in self._names:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        """Whether it is one of the names; nothing is made."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(sorted(self._names))

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._names)
