"""Model files: what comes back is what was written, and nothing else is let in."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skops")

import skops.io as skops_io

from brsolver import Trace
from brsolver.errors import MissingExtraError, ModelError, ParameterError
from classifiers import extra, model_file
from classifiers.features import FEATURES
from classifiers.hazard import HazardClassifier

if TYPE_CHECKING:
    from pathlib import Path


def made_trace() -> Trace:
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, 400, 500)
    return Trace(
        prompt_tokens=prompts,
        output_tokens=prompts // 4 + rng.integers(1, 6, 500),
        arrival_s=np.arange(500.0),
        name="made",
    )


TRACE = made_trace()
X = np.full((40, len(FEATURES)), np.nan)
X[:, 0] = np.arange(40)
X[:, 1] = np.arange(40) * 10 + 1


@pytest.fixture(scope="module", params=["gb", "lr"])
def classifier(request: pytest.FixtureRequest) -> HazardClassifier:
    return HazardClassifier(request.param, horizon=20, random_state=0).fit_trace(TRACE.head(400))


@pytest.fixture
def written(classifier: HazardClassifier, tmp_path: Path) -> Path:
    path = tmp_path / "m.skops"
    model_file.save(path, classifier, TRACE, 400, {"auc": 0.9})
    return path


def rewrite(path: Path, *, sign: bool = True, **members: bytes) -> None:
    """Replace members of a model file, with a digest that matches if `sign`."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in model_file.MEMBERS}
    held |= {name.replace("_", "."): data for name, data in members.items()}
    if sign:
        digest = model_file._digest(held["header.json"], held["model.skops"])
        held["digest"] = digest.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)


def header_with(path: Path, **changes: Any) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return json.dumps(json.loads(archive.read("header.json")) | changes).encode()


def refused(path: Path, **how: Any) -> str:
    with pytest.raises(ModelError) as error:
        model_file.load(path, **how)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_what_comes_back_forecasts_the_same(classifier: HazardClassifier, written: Path) -> None:
    loaded, header = model_file.load(written, horizon=20)
    assert classifier.evaluator_ is not None
    for there, here in zip(loaded.forecast(X), classifier.forecast(X), strict=True):
        np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(loaded.survival(X), classifier.survival(X))
    assert header == model_file.Header(
        version=model_file.VERSION,
        kind=classifier.kind,
        features=FEATURES,
        horizon=20,
        training_rows=400,
        training_span_s=399.0,
        trace_name="made",
        trace_fingerprint=TRACE.head(400).fingerprint(),
        start_fingerprint=TRACE.head(model_file.START_ROWS).fingerprint(),
        scores={"auc": 0.9},
    )


def test_the_header_knows_its_trace(written: Path) -> None:
    _, header = model_file.load(written)
    assert header.trained_on(TRACE)
    assert not header.trained_on(TRACE.head(399))
    other = replace(TRACE, output_tokens=TRACE.output_tokens + 1)
    assert not header.trained_on(other)


def test_a_part_of_what_trained_it_is_refused_and_nothing_else(written: Path) -> None:
    _, header = model_file.load(written)
    for rows in (model_file.START_ROWS, 100, 399):
        with pytest.raises(ParameterError, match=f"its {rows} requests are among the first 400"):
            header.check_unseen(TRACE.head(rows))
    header.check_unseen(TRACE.head(400))
    header.check_unseen(TRACE)
    header.check_unseen(TRACE.after(1).head(100))
    header.check_unseen(TRACE.head(model_file.START_ROWS - 1))


@pytest.mark.parametrize("at", [0.02, 0.3, 0.5, 0.9])
def test_a_file_with_a_changed_byte_is_refused(written: Path, at: float) -> None:
    data = bytearray(written.read_bytes())
    data[int(at * len(data))] ^= 0x55
    written.write_bytes(bytes(data))
    refused(written)


def test_cut_empty_missing_and_foreign_files_are_refused(written: Path, tmp_path: Path) -> None:
    written.write_bytes(written.read_bytes()[:-200])
    assert "damaged" in refused(written)
    for content in (b"", b"PK\x03\x04nonsense", b"a,b\n1,2\n"):
        written.write_bytes(content)
        assert "no model file" in refused(written)
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("header.json", "{}")
    refused(written)
    assert "No such file" in refused(tmp_path / "none.skops")
    refused(tmp_path)


def test_a_header_that_was_edited_is_refused_by_its_digest(written: Path) -> None:
    rewrite(written, sign=False, header_json=header_with(written, horizon=40))
    assert "digest" in refused(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format version 2"),
        ({"features": ["age", "mood"]}, "takes the features age, mood"),
        ({"horizon": 40}, "do not belong together"),
        ({"kind": "svm"}, "do not belong together"),
        ({"features": 3}, "cannot be understood"),
    ],
)
def test_a_header_of_something_else_is_refused(
    written: Path, changes: dict[str, Any], message: str
) -> None:
    rewrite(written, header_json=header_with(written, **changes))
    assert message in refused(written)


@pytest.mark.parametrize("header", [b"[]", b"{", b"{}", b"\xff"])
def test_a_header_that_is_none_is_refused(written: Path, header: bytes) -> None:
    rewrite(written, header_json=header)
    assert "cannot be understood" in refused(written)


def test_another_horizon_is_refused(written: Path) -> None:
    assert "forecasts 20 steps, not 80" in refused(written, horizon=80)


class Stranger:
    """Not what a model is made of."""

    built = 0

    def __setstate__(self, state: object) -> None:
        Stranger.built += 1


def test_other_types_are_refused_and_not_built(written: Path, classifier: HazardClassifier) -> None:
    slim = model_file._deployed(classifier)
    slim.surprise_ = Stranger()
    rewrite(written, model_skops=skops_io.dumps(slim))
    assert "Stranger, which no model needs" in refused(written)
    assert Stranger.built == 0


def test_a_file_of_trusted_types_that_is_no_classifier_is_refused(written: Path) -> None:
    rewrite(written, model_skops=skops_io.dumps({"a": 1}))
    assert "holds a dict" in refused(written)
    rewrite(written, model_skops=b"no zip")
    assert "cannot be rebuilt" in refused(written)


def test_only_fitted_distilled_classifiers_are_written(tmp_path: Path) -> None:
    path = tmp_path / "m.skops"
    whole = HazardClassifier("gb", horizon=20, distil=False, random_state=0)
    with pytest.raises(ValueError, match="not fitted"):
        model_file.save(path, whole, TRACE, 400)
    whole.fit_trace(TRACE.head(400))
    with pytest.raises(ModelError, match="distil"):
        model_file.save(path, whole, TRACE, 400)
    assert not path.exists()


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda module: None if module == "skops" else object())
    with pytest.raises(MissingExtraError, match=r"skops .*brsolver\[classifiers\]"):
        model_file.load("any.skops")
