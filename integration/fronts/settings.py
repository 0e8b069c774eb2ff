"""What a front is told: the picker's parameters, from a library's own settings or a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.hardware.model import step_time_of
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.tuned import read_toml, read_tuned
from integration.picker.params import MAX_WAIT_S, PickerParams

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

CONFIG = "config"
"""Names a TOML file of further settings."""
MOST_HELD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSettings:
    """How a front routes.

    Where nothing else is said, a request is held for as long as it takes: libraries that route
    by themselves let requests wait for replicas without end, too.

    Attributes
    ----------
    picker : PickerParams
    folder : Path
        What relative paths of hardware and tokenizer are seen from.
    """

    picker: PickerParams
    folder: Path

    @classmethod
    def read(cls, values: Mapping[str, object], owner: str, *, most_held: int = MOST_HELD) -> Self:
        """Read settings.

        Parameters
        ----------
        values : mapping of str to object
            Parameters of the picker by name. Those of the file that ``config`` names hold where
            they are not given themselves: a TOML file of such, or one of ``brsolver tune``.
        owner : str
            What messages call them.
        most_held : int
            ``pool_max`` where nobody says another.

        Raises
        ------
        ParameterError
            A name is unknown, or has a value that it cannot have.
        """
        given = dict(values)
        path, table = given.pop(CONFIG, None), dict[str, object]()
        if path is not None:
            if not isinstance(path, str):
                raise ParameterError(f"{owner}: {CONFIG} is {path!r}, must be the path of a file")
            table = _table(Path(path))
        held: dict[str, object] = {"wait_max_s": MAX_WAIT_S, "pool_max": most_held, "fallbacks": 0}
        picker = PickerParams.from_table({**held, **table, **given}, owner)
        return cls(picker=picker, folder=Path(path).parent if path else Path())

    def check(self) -> None:
        """Look up what the settings name, before anything is made of them.

        Raises
        ------
        BrsolverError
            There is no such policy, predictor or hardware, or it has no such parameter.
        """
        PolicySpec.parse(self.picker.policy)
        PredictorSpec.parse(self.picker.predictor)
        step_time_of(self.picker.hardware, self.folder)


def _table(path: Path) -> dict[str, object]:
    """Return what a file says: of the picker's parameters alone, or of `brsolver tune`."""
    tuned = read_tuned(path)
    return read_toml(path) if tuned is None else tuned.for_picker()
