"""What has a name and may come from outside: the package's own things, those of other packages, those added here."""

from __future__ import annotations

__all__ = ["Plugins"]

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Generic, TypeVar

from relevancy.errors import RelevancyError, shortened

T = TypeVar("T")


class Plugins(Mapping[str, T], Generic[T]):
    """Things of one kind by name: `own`, then what installed packages declare as entry points of `group`, then added.

    what: the kind, in one word. made: the thing from a name and what an entry point holds; raises RelevancyError for
    what is none. Listing names loads nothing; looking one up loads the package that declares it. A name is taken once:
    an entry point with the name of an own thing is left out with a warning, one that two packages declare is refused
    when it is looked up. Safe to use from several threads.
    """

    def __init__(self, what: str, group: str, own: Mapping[str, T], made: Callable[[str, Any], T]) -> None:
        self.what, self.group, self.made = what, group, made
        self._own, self._added = dict(own), dict[str, T]()
        self._lock = RLock()
        self._declared: dict[str, list[EntryPoint]] | None = None
        self._loaded: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._outside(), *self._added])

    def __len__(self) -> int:
        return len(self._own) + len(self._outside()) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added or name in self._outside()

    def __getitem__(self, name: str) -> T:
        """Raises KeyError where there is none of this name, RelevancyError where its package cannot be used."""
        for known in (self._own, self._added):
            if name in known:
                return known[name]
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name, self._outside()[name])
            return self._loaded[name]

    def usable(self) -> dict[str, T]:
        """All of them; those whose package cannot be used are left out, with a warning."""
        return {name: thing for name in self if (thing := self._usable(name)) is not None}

    def named(self, name: str) -> T:
        """The thing of this name. Raises RelevancyError where there is none."""
        if name not in self:
            raise RelevancyError(f"Unknown {self.what} {name!r}; there is {', '.join(self) or 'none'}.")
        return self[name]

    def add(self, name: str, thing: T) -> T:
        """Take a thing into this process under a name that is free. Raises RelevancyError where it is not."""
        with self._lock:
            if name in self:
                raise RelevancyError(f"There is a {self.what} {name} already: choose another name.")
            self._added[name] = thing
        return thing

    def remove(self, name: str) -> None:
        """Forget a thing that was added. Raises RelevancyError where none of this name was."""
        with self._lock:
            if self._added.pop(name, None) is None:
                raise RelevancyError(f"No {self.what} {name} was added here, so there is none to remove.")

    def travels(self, name: str) -> bool:
        """Whether other processes find it under its name, too."""
        return name in self._own or name in self._outside()

    def _usable(self, name: str) -> T | None:
        try:
            return self[name]
        except RelevancyError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)
            return None

    def _outside(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name, looked for once."""
        with self._lock:
            if self._declared is None:
                self._declared = {}
                for point in dict.fromkeys(entry_points(group=self.group)):
                    if point.name in self._own:
                        warnings.warn(
                            f"{_package(point)} has a {self.what} {point.name}, a name of relevancy's own: left out",
                            RuntimeWarning,
                            stacklevel=2,
                        )
                    else:
                        self._declared.setdefault(point.name, []).append(point)
            return self._declared

    def _load(self, name: str, points: list[EntryPoint]) -> T:
        if len(points) > 1:
            both = " and ".join(map(_package, points))
            raise RelevancyError(f"{both} both have a {self.what} {name}: uninstall one of them.")
        try:
            return self.made(name, points[0].load())
        except Exception as error:  # another package's code raises what it likes
            told = shortened(error if isinstance(error, RelevancyError) else f"{type(error).__name__}: {error}")
            raise RelevancyError(f"The {self.what} {name} of {_package(points[0])} cannot be used ({told}).") from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(":")[0]
