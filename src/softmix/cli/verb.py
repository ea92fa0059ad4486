"""The base class of the verbs of the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of the command line, a frozen dataclass. A call of an instance does the work.

    Its fields are the options. A field of type `Positional[...]` is an argument without a name. The text below a field
    is its help, and the docstring of the class is the help of the verb. The name on the command line is the name of the
    class in small letters.
    """

    def __call__(self) -> None:
        raise NotImplementedError

    @classmethod
    def command(cls) -> str:
        """The name on the command line."""
        return cls.__name__.lower()

    def given(self, *names: str) -> dict[str, Any]:
        """The options with these names that differ from their default, by name, in this order."""
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != defaults[name]}
