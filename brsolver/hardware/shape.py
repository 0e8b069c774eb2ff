"""What of a model tells which rows of operator tables are its own."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from brsolver._limits import MAX_COUNT, require, require_whole
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.specs import build_params

if TYPE_CHECKING:
    from collections.abc import Mapping

Attention = Literal["gqa", "mla", "dsa"]
COUNTS = ("layers", "hidden", "heads", "experts", "experts_per_token", "expert_size")
"""At least 1; the others may be 0."""
OPTIONAL_COUNTS = ("kv_heads", "head_size", "dense_layers", "dense_size", "shared_experts")
TEXTS = (
    *("name", "source", "architecture", "gemm_dtype", "moe_dtype", "kv_dtype"),
    *("router_dtype", "attention_dtype", "distribution"),
)
_SUFFIX = ".toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's sizes, and the number formats that it is served in.

    Attributes
    ----------
    name, source : str
        The model, as measurements name it, and where its sizes are from.
    layers, hidden : int
        Layers, and numbers per token between them.
    heads, kv_heads, head_size : int
        Of attention, on one GPU; the last two are 0 where tables hold it as a module.
    experts, experts_per_token, expert_size : int
        Routed experts of a layer, those that a token asks for, and numbers per token within one.
    shared_experts : int
        Experts that every token passes, on its own rank.
    dense_layers, dense_size : int
        Layers without experts, and numbers per token within these.
    attention : {"gqa", "mla", "dsa"}
        ``gqa``: its kernel and its projections by themselves; ``mla`` and ``dsa`` (sparse): a
        module with both.
    architecture : str
        Of the module's rows, e.g. ``GlmMoeDsaForCausalLM``.
    gemm_dtype, router_dtype, moe_dtype, kv_dtype, attention_dtype : str
        Formats as tables name them: ``fp8_block``, ``bfloat16``.
    distribution : str
        How tokens are spread over experts in the rows: ``balanced``, ``power_law_1.2``.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    experts: int
    experts_per_token: int
    expert_size: int
    kv_heads: int = 0
    head_size: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    dense_size: int = 0
    attention: Attention = "gqa"
    architecture: str = ""
    gemm_dtype: str = "bfloat16"
    router_dtype: str = "bfloat16"
    moe_dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    attention_dtype: str = "bfloat16"
    distribution: str = "power_law_1.2"
    source: str = ""

    def __post_init__(self) -> None:
        for name in COUNTS:
            require_whole(name, getattr(self, name), 1, MAX_COUNT)
        for name in OPTIONAL_COUNTS:
            require_whole(name, getattr(self, name), 0, MAX_COUNT)
        for name in TEXTS:
            value = getattr(self, name)
            require(isinstance(value, str), f"{name} is {value!r}, must be a text")
        require(bool(self.name), "name is '', must be the model's")
        require(
            self.attention in ("gqa", "mla", "dsa"),
            f"attention is {self.attention!r}, must be gqa, mla or dsa",
        )
        self._check_whole()

    def _check_whole(self) -> None:
        require(
            self.experts_per_token <= self.experts,
            f"experts_per_token is {self.experts_per_token}, must be at most experts, "
            f"{self.experts}",
        )
        require(
            self.dense_layers < self.layers,
            f"dense_layers is {self.dense_layers}, must be below layers, {self.layers}",
        )
        require(
            not self.dense_layers or self.dense_size > 0,
            "dense_size is 0, must be given where dense_layers is",
        )
        if self.attention == "gqa":
            for name in ("kv_heads", "head_size"):
                require(getattr(self, name) > 0, f"{name} is 0, must be at least 1 with gqa")
        else:
            require(
                bool(self.architecture),
                f"architecture is missing, must be that of the {self.attention} module's rows",
            )

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers

    @classmethod
    def from_toml(cls, path: str | Path) -> Shape:
        """Load from the table ``[model]`` of a TOML file.

        Raises
        ------
        ParameterError
            The file cannot be read, or a key is missing, unknown or has a bad value.
        """
        try:
            values = _model_table(Path(path))
            return build_params(cls, values, "model", convert_texts=False)
        except ParameterError as error:
            raise type(error)(f"{path}: {error}") from error


def _model_table(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"cannot be read as TOML: {reason}") from error
    if set(values) != {"model"} or not isinstance(values["model"], dict):
        held = ", ".join(values) or "nothing"
        known = ", ".join(each.name for each in fields(Shape))
        raise ParameterError(f"holds {held}, must hold one table [model] with {known}")
    return values["model"]


def shape_names() -> tuple[str, ...]:
    """Return the names of the shapes that brsolver knows, sorted."""
    return tuple(sorted(_known()))


def read_shape(text: str) -> Shape:
    """Return a shape by its name, or from a file ``….toml``.

    Raises
    ------
    UnknownNameError
        There is no shape of that name.
    ParameterError
        As `Shape.from_toml`.
    """
    if text.lower().endswith(_SUFFIX):
        return Shape.from_toml(text)
    if text not in _known():
        raise UnknownNameError.suggest("shape", text, (*_known(), "FILE.toml"))
    return Shape.from_toml(_known()[text])


def shape_of_model(model: str) -> Shape:
    """Return the known shape of a model as measurements name it.

    Raises
    ------
    ParameterError
        None is known.
    """
    found = [each for each in map(read_shape, _known()) if _is(each.name, model)]
    if not model or len(found) != 1:
        raise ParameterError(
            f"--shape is not given and none is known of {model or 'a model without a name'}, must "
            f"be one of {', '.join(shape_names())}, or FILE.toml"
        )
    return found[0]


def _is(name: str, model: str) -> bool:
    return name.rpartition("/")[2].lower() == model.rpartition("/")[2].lower()


@cache
def _known() -> Mapping[str, Path]:
    place = Path(str(files("brsolver.hardware") / "shapes"))
    return {path.stem: path for path in sorted(place.glob(f"*{_SUFFIX}"))}
