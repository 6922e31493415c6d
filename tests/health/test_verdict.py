"""The verdict on hidden tissue: what passes, what does not, and that an untrained network never does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from health_parts import make_model

from prostate_mim.health import HealthMonitor
from prostate_mim.health.report import write_report
from prostate_mim.health.verdict import read_verdict

BLOCK, VOXELS = 'method.target = "block"\n', 'method.target = "voxels"\n'


def folder_of(path: Path, config: str, *rows: dict[str, float]) -> Path:
    """A run that has looked at hidden tissue: a row of metrics a step, ``error`` for ``health/error``."""
    named = [{"step": n, **{f"health/{name}": value for name, value in row.items()}} for n, row in enumerate(rows)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    (path / "config.toml").write_text(config)
    return path


def row(error: float, block_mean: float, interpolation: float, centred: float) -> dict[str, float]:
    return {"error": error, "block_mean": block_mean, "interpolation": interpolation, "interpolation_centred": centred}


@pytest.mark.parametrize(
    ("config", "values", "restored", "text"),
    [
        (BLOCK, row(0.999, 0.992, 2.19, 0.962), False,
         "error 0.999, not yet below the block mean 0.992: nothing learnt that a mean does not say"),
        (BLOCK, row(0.97, 0.992, 2.19, 0.962), False,
         "error 0.970, below the block mean 0.992, not yet below mean-corrected interpolation 0.962"),
        (BLOCK, row(0.59, 0.956, 1.156, 0.86), True,
         "error 0.590, below the block mean 0.956 and mean-corrected interpolation 0.860"),
        ("", row(0.9, 0.956, 1.156, 0.86), False,  # the target is not known: the stricter comparison
         "error 0.900, below the block mean 0.956, not yet below mean-corrected interpolation 0.860"),
        (VOXELS, row(0.9, 0.956, 1.156, 0.86), True, "error 0.900, below the block mean 0.956 and interpolation 1.156"),
        (VOXELS, row(1.1, 0.956, 1.156, 0.86), False,
         "error 1.100, below interpolation 1.156, not yet below the block mean 0.956"),
        (VOXELS, row(1.3, 0.956, 1.156, 0.86), False,
         "error 1.300, not yet below the block mean 0.956 or interpolation 1.156"),
        (VOXELS, {"error": 0.5, "block_mean": 0.9, "unchanged": 0.4, "unchanged_centred": 0.3}, False,
         "error 0.500, below the block mean 0.900, not yet below the input as it is 0.400"),
    ],
)  # fmt: skip
def test_the_words(config: str, values: dict[str, float], restored: bool, text: str, tmp_path: Path) -> None:
    """By hand; what is printed is on the page, in the colour of its outcome."""
    found = read_verdict(folder_of(tmp_path, config, values))
    assert found is not None
    assert (found.text, found.restored, found.to_dict()["restored"]) == (text, restored, restored)
    assert found.subject == ("changed tissue" if "unchanged" in values else "hidden tissue")
    page = write_report(tmp_path).read_text()
    assert f'<p class="{"good" if restored else "open"}">{found.subject.capitalize()}: {text}.</p>' in page


def test_it_is_about_the_last_look(tmp_path: Path) -> None:
    """Not the best one; later rows without a look, or with another one, are passed over."""
    rows = [row(0.5, 1, 2, 1), row(0.8, 1, 2, 0.9), {"rank": 3.0}]
    found = read_verdict(folder_of(tmp_path, BLOCK, *rows))
    assert found is not None and (found.step, found.error) == (1, 0.8)


def test_nothing_looked_at_is_no_verdict(tmp_path: Path) -> None:
    """No look, a method that predicts no voxels, no folder; and the page has none."""
    assert read_verdict(tmp_path / "nothing") is None
    assert read_verdict(folder_of(tmp_path, BLOCK, {"loss": 0.3, "rank": 2.0})) is None
    page = write_report(tmp_path).read_text()
    assert 'class="open"' not in page and "Hidden tissue" not in page


def test_random_weights_do_not_pass(monitor: HealthMonitor, tmp_path: Path) -> None:
    """As measured, though they lie below plain interpolation, which the tiles no longer show."""
    values = monitor.observe(make_model(), 0, tmp_path)
    assert values["health/error"] < values["health/interpolation"]  # so that it would have passed
    given = {name.removeprefix("health/"): value for name, value in values.items()}
    found = read_verdict(folder_of(tmp_path, BLOCK, given))
    assert found is not None and not found.restored and "not yet below the block mean" in found.text
    page = write_report(tmp_path).read_text()
    assert f"<b>{values['health/interpolation_centred_gland']:.3f}</b><span>interpolation&#x27;s error there, " in page
    assert f"<b>{values['health/interpolation_gland']:.3f}</b>" not in page
