"""Parameters from nested dictionaries, TOML files and specification strings.

Values keep the types a dictionary or file gives them: ``workers = true`` or ``"8"`` is refused,
not guessed at. So is, everywhere, a field that the chosen mode makes no use of, which would be
ignored without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.options import Choices, check_names, choices_of, parameter, parameters
from brsolver.specs import build_params, parse_spec
from brsolver.tuned import Tuned, is_tuned, read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)
else:
    P = TypeVar("P")


def params_from_dict(cls: type[P], values: Mapping[str, Any], *, folder: Path | None = None) -> P:
    """Build simulation parameters from nested dictionaries.

    Parameters
    ----------
    cls : type
        `brsolver.simulator.params.SimulationParams`.
    values : mapping of str to object
    folder : Path, optional
        Where files that it names are looked for; default the working directory.

    Raises
    ------
    UnknownNameError
        A name is no parameter.
    ParameterError
        A value has the wrong type or range, or the chosen mode does not use it.
    """
    built = dict(values)
    _read_named(cls, built, folder)
    for each in parameters(cls):
        given, component = built.get(each.name), each.component
        if component is None:
            continue
        if isinstance(given, dict):
            built[each.name] = component_from(component, given, each.name, folder=folder)
        elif each.many and isinstance(given, list | tuple):
            built[each.name] = [
                component_from(component, one, f"{each.name}[{at}]", folder=folder)
                if isinstance(one, dict)
                else one
                for at, one in enumerate(given)
            ]
    return build_params(cls, built, "simulation", convert_texts=False)


def _read_named(cls: Any, values: dict[str, Any], folder: Path | None) -> None:
    """Put components in place of the names that they are given by."""
    for each in parameters(cls):
        named = each.option.named if each.option else None
        if named is None or named.name not in values:
            continue
        if each.name in values:
            raise ParameterError(f"{named.name} and {each.name} are given, must be one of them")
        text = values.pop(named.name)
        if not isinstance(text, str):
            raise ParameterError(f"{named.name} is {text!r}, must be a text: {named.metavar}")
        values[each.name] = named.read(text, folder)


def params_from_toml(cls: type[P], path: str | Path) -> P:
    """Build simulation parameters from a TOML file with one table per component.

    Files that it names are looked for beside it. Of a file that ``brsolver tune`` wrote it
    takes the parameters of a simulation (`brsolver.tuned`).

    Raises
    ------
    ParameterError
        The file cannot be read, or as in `params_from_dict`; names the file.
    """
    values = read_toml(path)
    try:
        if is_tuned(values):
            values = Tuned.of(values).for_simulation()
        return params_from_dict(cls, values, folder=Path(path).parent)
    except ParameterError as error:
        raise type(error)(f"{path}: {error}") from error


def component_from(
    cls: type[P],
    values: Mapping[str, Any],
    owner: str,
    *,
    convert_texts: bool = False,
    folder: Path | None = None,
) -> P:
    """Build one component, and refuse what its choice does not use.

    Parameters
    ----------
    cls : type
        Dataclass of the component.
    values : mapping of str to object
        By field, or by name of a file that holds fields.
    owner : str
        The component's name, for messages.
    convert_texts : bool
        Whether values are texts as on the command line.
    folder : Path, optional
        Where files are looked for.

    Raises
    ------
    UnknownNameError
        A name is no field.
    ParameterError
        As in `params_from_dict`; if what is wrong came from a file, it names the file.
    """
    check_names(cls, values, owner)
    choices = choices_of(cls)
    if choices is None:
        return build_params(cls, values, owner, convert_texts=convert_texts)
    file, filled = _filled(choices, values, _chosen(cls, choices, values), owner, folder)
    try:
        built = build_params(cls, filled, owner, convert_texts=convert_texts)
        _refuse_unused(choices, filled, built)
    except ParameterError as error:
        text = str(error)
        where = "" if text.startswith((f"{owner}:", "unknown ")) else f"{owner}: "
        raise type(error)(f"{file}: {where}{text}" if file else f"{where}{text}") from error
    return built


def component_parse(cls: type[P], text: str, owner: str) -> P:
    """Read a component from ``CHOICE`` or ``CHOICE:KEY=VALUE,...``.

    Raises
    ------
    UnknownNameError
        There is no such choice or field.
    ParameterError
        As in `component_from`.
    """
    choices = cast("Choices", choices_of(cls))
    chosen, values = parse_spec(text)
    if chosen not in choices.uses:
        raise UnknownNameError.suggest(f"{owner} {choices.selector}", chosen, choices.uses)
    for name in values:
        if name == choices.selector or name not in choices.accepted(chosen):
            check_names(cls, [name], f"{owner} {chosen}")
            raise ParameterError(f"{owner}: {choices.refuse(name, chosen)}")
    return component_from(cls, {choices.selector: chosen, **values}, owner, convert_texts=True)


def _chosen(cls: Any, choices: Choices, values: Mapping[str, Any]) -> Any:
    return values.get(choices.selector, parameter(cls, choices.selector).default)


def _filled(
    choices: Choices, values: Mapping[str, Any], chosen: Any, owner: str, folder: Path | None
) -> tuple[str, Mapping[str, Any]]:
    """Put a file's contents in place of its name; return the file's path and all values."""
    for name, file in choices.files.items():
        held = [field for field in values if field in choices.uses[file.choice]]
        held = [field for field in held if field not in file.beside]
        if name not in values:
            if chosen == file.choice and not held:
                raise ParameterError(
                    f"{owner} is {chosen!r}, must have {name}={file.metavar}: it names no file"
                )
            continue
        given = values[name]
        if chosen != file.choice:
            raise ParameterError(f"{owner}: {choices.refuse(name, chosen)}")
        if held:
            raise ParameterError(f"{owner}: {name} and {held[0]} are given, must be one of them")
        if not isinstance(given, str):
            raise ParameterError(f"{owner}: {name} is {given!r}, must be a text")
        path = (folder or Path()) / given
        return str(path), {**{k: v for k, v in values.items() if k != name}, **file.read(path)}
    return "", values


def _refuse_unused(choices: Choices, given: Mapping[str, Any], built: Any) -> None:
    chosen = getattr(built, choices.selector)
    for name in given:
        # What stands at its default says nothing: `to_dict` writes every field.
        unused = name != choices.selector and name not in choices.uses[chosen]
        if unused and getattr(built, name) != parameter(type(built), name).default:
            raise choices.refuse(name, chosen)
