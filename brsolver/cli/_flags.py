"""One option of the command line that is made from a field of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from brsolver.options import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of the command line.

    Attributes
    ----------
    name : str
        With dashes, the option.
    says : Option
    kind : {"text", "switch", "choice", "repeated", "named"}
        ``switch``: ``--NAME/--no-NAME``. ``choice``: there or not. ``named``: the text is a name
        of the whole component. All else takes a text.
    field, part : str
        The parameter that it sets, and the field of it if that is a component.
    choice : str
        What the component's selector becomes.
    metavar : str
    default : str
        What holds where it is not given.
    """

    name: str
    says: Option
    kind: Literal["text", "switch", "choice", "repeated", "named"] = "text"
    field: str
    part: str = ""
    choice: str = ""
    metavar: str = ""
    default: str = ""

    @property
    def argument(self) -> str:
        """Return the command's argument: its name, unless Python has another use for that."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    @property
    def option(self) -> str:
        """Return what is typed."""
        return "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """Say what it does, and what holds where it is not given."""
        return f"{self.says.help} (default: {self.default})" if self.default else self.says.help


def given_value(flag: Flag, value: Any) -> Any:
    """Return the value of a flag, or None if it was not given."""
    if value is None or flag.kind in {"text", "named"}:
        return value
    if flag.kind == "switch" and flag.says.switch is not None:
        return flag.says.switch[not value]
    # A choice that is not there is False, a list of nothing is empty.
    return value if value or flag.kind == "switch" else None
