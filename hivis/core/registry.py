"""Records by name: how drafting methods, policies and model families are registered and found."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from hivis.errors import HivisError, first_line


class Named(Protocol):
    """What a registry holds: anything with a name."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


class Registry(Generic[R]):
    """Records by name, our own and those of packages outside.

    Args:
        what: a record is, for error messages: "policy".
        group: the group of entry points by which installed packages name theirs. They are looked
            up when the records are first asked for.
    """

    def __init__(self, what: str, group: str) -> None:
        self._what, self._group = what, group
        self._records: dict[str, R] = {}
        self._discovered = False

    def register(self, record: R) -> None:
        """Make a record known.

        Raises:
            HivisError: there is another one of this name.
        """
        if self._records.setdefault(record.name, record) != record:
            raise HivisError(f"{self._what}: wanted a name of its own, got {record.name} again")

    def records(self) -> tuple[R, ...]:
        """All records, in the order that they were registered: our own, then those of packages.

        Raises:
            HivisError: a package's entry point cannot be imported, or is none of a record.
        """
        if not self._discovered:
            for point in entry_points(group=self._group):
                self._take(point)
            # Only now: if one of them is broken, whoever asks again is told so again.
            self._discovered = True
        return tuple(self._records.values())

    def _take(self, point: EntryPoint) -> None:
        where = f"entry point {point.name} = {point.value} of {self._group}"
        try:
            record = point.load()
            self.register(record)
        except Exception as error:  # whatever the code of a package outside raises
            raise HivisError(f"{where}: wanted a {self._what}, got: {first_line(error)}") from error

    def names(self) -> tuple[str, ...]:
        """The names of all records."""
        return tuple(record.name for record in self.records())

    def get(self, name: object) -> R:
        """The record of this name; HivisError lists those that there are."""
        for record in self.records():
            if record.name == name:
                return record
        raise HivisError(f"{self._what}: wanted one of {', '.join(self.names())}, got {name!r}")
