"""Trained models in files: a header that anyone can read, and a model that executes nothing.

A model file is a zip archive of three members: ``header.json``, ``model.skops`` and ``digest``,
the SHA-256 of both. The digest finds damage and careless edits. It is no signature: whoever can
write the file can write the digest. What keeps a forged model from doing harm is that skops
builds nothing but the types listed here, none of which runs code of the file's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from brsolver._version import __version__
from brsolver.errors import ModelError, ParameterError
from brsolver.traces.atomic import replacing
from classifiers.extra import require_extra
from classifiers.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from brsolver.traces.trace import Trace
    from classifiers.hazard import HazardClassifier

VERSION = 1
"""Of the format; files of another are refused."""

MEMBERS = ("header.json", "model.skops", "digest")

START_ROWS = 50
"""Requests by which a trace is recognised that is only a part of what trained a model."""

MAX_BYTES = 1 << 28
"""Largest member that is read: a small file may claim to unpack into anything."""

_TRUSTED = tuple(
    f"classifiers.{name}"
    for name in (
        "baseline.Baseline",
        "calibration.Calibration",
        "design.Design",
        "distil.AdditiveTables",
        "distil.StudentTrees",
        "hazard.HazardClassifier",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a model file says of its model.

    Attributes
    ----------
    version : int
        Of the format.
    kind : str
        ``"gb"`` or ``"lr"``.
    features : tuple of str
        Columns that the model takes.
    horizon : int
        Steps H that it forecasts.
    training_rows : int
        Leading requests of the trace that it was trained on.
    training_span_s : float or None
        Seconds between the first and the last of them; None without arrival times.
    trace_name : str
        The trace.
    trace_fingerprint : str
        `brsolver.traces.Trace.fingerprint` of these requests.
    start_fingerprint : str
        The same of the first `START_ROWS` of them.
    scores : mapping of str to float
        How well it forecasts later requests, where that was measured.
    brsolver : str
        Version of brsolver that wrote the file.
    """

    version: int
    kind: str
    features: tuple[str, ...]
    horizon: int
    training_rows: int
    training_span_s: float | None
    trace_name: str
    trace_fingerprint: str
    start_fingerprint: str
    scores: Mapping[str, float] = field(default_factory=dict)
    brsolver: str = __version__

    @classmethod
    def of(
        cls,
        classifier: HazardClassifier,
        trace: Trace,
        rows: int,
        scores: Mapping[str, float] | None = None,
    ) -> Header:
        """Describe a classifier trained on the first `rows` requests of a trace."""
        past = trace.head(rows)
        return cls(
            version=VERSION,
            kind=classifier.kind,
            features=tuple(classifier.features or ()),
            horizon=classifier.horizon,
            training_rows=len(past),
            training_span_s=past.span_s,
            trace_name=past.name,
            trace_fingerprint=past.fingerprint(),
            start_fingerprint=past.head(START_ROWS).fingerprint(),
            scores=dict(scores or {}),
        )

    def trained_on(self, trace: Trace) -> bool:
        """Tell whether the trace starts with the requests that trained the model."""
        if not 0 < self.training_rows <= len(trace):
            return False
        return trace.head(self.training_rows).fingerprint() == self.trace_fingerprint

    def check_unseen(self, trace: Trace) -> None:
        """Refuse a trace that is only a part of what trained the model.

        Raises
        ------
        ParameterError
            It starts like the training rows and is shorter than these.
        """
        start = min(START_ROWS, self.training_rows)
        if not start <= len(trace) < self.training_rows:
            return
        if trace.head(start).fingerprint() == self.start_fingerprint:
            raise ParameterError(
                f"{trace.name}: its {len(trace):,} requests are among the first "
                f"{self.training_rows:,} of {self.trace_name}, which trained the model; nothing "
                "is left to forecast: read more of the trace, or train on less"
            )


def save(
    path: str | Path,
    classifier: HazardClassifier,
    trace: Trace,
    rows: int,
    scores: Mapping[str, float] | None = None,
) -> Header:
    """Write a classifier that was trained on the first `rows` requests of a trace.

    Parameters
    ----------
    path : str or path
        File to write; an existing one is replaced, or left as it was if this fails.
    classifier : HazardClassifier
        Fitted.
    trace : Trace
    rows : int
    scores : mapping of str to float, optional
        How well it forecasts later requests.

    Raises
    ------
    OutputError
        The file cannot be written.
    ModelError
        The classifier is not a distilled one.
    """
    require_extra()
    import skops.io

    header = Header.of(classifier, trace, rows, scores)
    described = json.dumps(asdict(header), indent=1).encode()
    model = skops.io.dumps(_deployed(classifier))
    members = (described, model, _digest(described, model).encode())
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in zip(MEMBERS, members, strict=True):
            archive.writestr(name, data)
    return header


def load(path: str | Path, *, horizon: int | None = None) -> tuple[HazardClassifier, Header]:
    """Read a classifier and its header, having checked both.

    Parameters
    ----------
    path : str or path
    horizon : int, optional
        Steps H that the model must forecast.

    Raises
    ------
    ModelError
        The file is damaged or was changed, is of another version, holds types other than a
        model's, or is a model of other features or another horizon.
    MissingExtraError
        A package is not installed.
    """
    require_extra()
    described, model = _members(path)
    header = _header(path, described)
    if header.features != FEATURES:
        raise ModelError(
            f"{path}: the model takes the features {', '.join(header.features)}; this version of "
            f"brsolver makes {', '.join(FEATURES)}; train it anew"
        )
    if horizon is not None and header.horizon != horizon:
        raise ModelError(
            f"{path}: the model forecasts {header.horizon} steps, not {horizon}; "
            f"ask for horizon {header.horizon} or train it anew"
        )
    classifier = _classifier(path, model)
    said = (header.kind, header.horizon, header.features)
    if said != (classifier.kind, classifier.horizon, tuple(classifier.features or ())):
        raise ModelError(f"{path}: header and model do not belong together")
    classifier.check_deployable()
    return classifier, header


def _deployed(classifier: HazardClassifier) -> HazardClassifier:
    """Return what runs, without the estimators that it was distilled from."""
    classifier.check_deployable()
    if not classifier.distil:
        raise ModelError("distil = False: only distilled classifiers are saved; train with distil")
    slim = copy.copy(classifier)
    slim.teachers_ = None
    if slim.evaluator_ is not None:
        slim.evaluator_ = slim.evaluator_.compiled_only()
    return slim


def _digest(described: bytes, model: bytes) -> str:
    own = hashlib.sha256(described).digest() + hashlib.sha256(model).digest()
    return hashlib.sha256(own).hexdigest()


def _members(path: str | Path) -> tuple[bytes, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            described, model, digest = (_member(archive, name) for name in MEMBERS)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path}: is no model file or is damaged ({error}); write one with: "
            "brsolver classifier train"
        ) from error
    if digest != _digest(described, model).encode():
        raise ModelError(f"{path}: its digest does not match: damaged or changed since written")
    return described, model


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES} bytes")
    return archive.read(name)


def _header(path: str | Path, described: bytes) -> Header:
    try:
        facts = json.loads(described)
        if facts["version"] != VERSION:
            raise ModelError(
                f"{path}: format version {facts['version']}, this version of brsolver reads "
                f"{VERSION}; train it anew"
            )
        facts["features"] = tuple(facts["features"])
        return Header(**{own.name: facts[own.name] for own in fields(Header)})
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: its header cannot be understood ({error})") from error


def _classifier(path: str | Path, model: bytes) -> HazardClassifier:
    import skops.io
    import skops.io.exceptions

    from classifiers.hazard import HazardClassifier

    try:
        # Raises before anything is built if there are other types.
        loaded: Any = skops.io.loads(model, trusted=list(_TRUSTED))
    except skops.io.exceptions.UntrustedTypesFoundException as error:
        strange = sorted(set(skops.io.get_untrusted_types(data=model)) - set(_TRUSTED))
        raise ModelError(
            f"{path}: holds {', '.join(strange[:3])}, which no model needs; not loaded"
        ) from error
    except Exception as error:  # whatever a forged file makes skops stumble over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: the model cannot be rebuilt ({reason})") from error
    if not isinstance(loaded, HazardClassifier):
        raise ModelError(f"{path}: holds a {type(loaded).__name__}, must be a HazardClassifier")
    return loaded
