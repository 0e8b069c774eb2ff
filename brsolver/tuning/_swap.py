"""What a study says of itself, written only where nobody else has written it meanwhile.

Optuna writes an attribute whatever it was. Two processes that both look, and both write, would
each believe that theirs is there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study
    from sqlalchemy import Engine, TableClause

NOTHING = "null"
"""Text of an attribute that is not there."""


def text_of(study: Study, name: str) -> str:
    """Return an attribute of a study, as JSON.

    Parameters
    ----------
    study : Study
    name : str
    """
    database = _database(study)
    if database is None:
        return json.dumps(study.user_attrs.get(name))
    from sqlalchemy import select

    kept = _attributes()
    with database.connect() as connection:
        found = connection.execute(select(kept.c.value_json).where(*_this(kept, study, name)))
        return str(found.scalar_one_or_none() or NOTHING)


def swapped(study: Study, name: str, before: str, value: Any) -> bool:
    """Write an attribute if it is what it was; tells whether it did.

    The database itself compares and writes, in one statement: of several that do it at once, one
    succeeds.

    Parameters
    ----------
    study : Study
    name : str
    before : str
        As of `text_of`.
    value : plain value
    """
    database = _database(study)
    if database is None:
        if text_of(study, name) != before:
            return False
        study.set_user_attr(name, value)
        return True
    from sqlalchemy import insert, update
    from sqlalchemy.exc import IntegrityError

    kept, text = _attributes(), json.dumps(value)
    same = (*_this(kept, study, name), kept.c.value_json == before)
    with database.begin() as connection:
        if connection.execute(update(kept).where(*same).values(value_json=text)).rowcount:
            return True
    if before != NOTHING:
        return False
    row = {"study_id": study._study_id, "key": name, "value_json": text}  # noqa: SLF001 # nothing public names it
    try:
        with database.begin() as connection:
            connection.execute(insert(kept).values(row))
    except IntegrityError:  # it is there, and is not what it was
        return False
    return True


def _database(study: Study) -> Engine | None:
    """Return the database that a study is in, if it is in one."""
    storage: Any = study._storage  # noqa: SLF001 # nothing public leads to it
    return getattr(getattr(storage, "_backend", storage), "engine", None)


def _attributes() -> TableClause:
    """Return Optuna's own table, which has one row for each study and name."""
    from sqlalchemy import column, table

    return table("study_user_attributes", column("study_id"), column("key"), column("value_json"))


def _this(kept: TableClause, study: Study, name: str) -> tuple[Any, Any]:
    return kept.c.study_id == study._study_id, kept.c.key == name  # noqa: SLF001 # as above
