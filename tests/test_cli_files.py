"""The verbs of recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from streamnode import build
from streamnode.charts.run import Run
from streamnode.cli import files
from streamnode.cli.show import show_json
from streamnode.errors import ConfigError, ContractError, SinkError, StreamnodeError
from streamnode.inference.engine import Engine
from streamnode.results import load
from tests.offline import NAMES, make_plan, make_recording, write_csv


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build.load_engine(make_plan().model)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "demo.csv", make_recording(6.0))


def no_json(constant: str) -> None:
    pytest.fail(f"{constant} is no JSON")


@pytest.fixture
def cli(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs a verb on the engine of this module; gives exit code, JSON and what was said of errors."""
    monkeypatch.setattr(build, "load_engine", lambda _: engine)

    def run(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        it = CliRunner().invoke(files.app, [*map(str, arguments), "--weights", "random:0", "--json"])
        if isinstance(it.exception, StreamnodeError):
            return it.exception.exit_code, {}, str(it.exception)
        assert isinstance(it.exception, SystemExit | None), it.exception
        return it.exit_code, json.loads(it.stdout, parse_constant=no_json), it.stderr

    return run


Cli = Callable[..., tuple[int, dict[str, Any], str]]
CSV = ("--csv-unit", "uV", "--csv-sfreq", "250")


def test_embed(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """`embed` writes a file for each recording, says what it took, and skips what is there."""
    other = write_csv(tmp_path / "other.csv", make_recording(7.0))
    options = ("-o", tmp_path / "out", "--hop", "0.5", "--notch", "auto", *CSV)

    code, said, errors = cli("embed", csv, other, *options)

    assert (code, errors) == (0, "")
    assert [row["epochs"] for row in said["files"]] == [2, 4]
    assert said["epochs"] == 6
    assert list(said["seconds"]) == ["load", "read", "prepare", "signal", "inference", "write"]
    assert said["epochs_per_s"] == pytest.approx(6 / (sum(said["seconds"].values()) - said["seconds"]["load"]))
    assert load(tmp_path / "out" / "other.safetensors").meta.hop_s == 0.5
    _, said, _ = cli("embed", csv, other, *options)
    assert [row.get("skipped") for row in said["files"]] == [True, True]


def test_embed_into_parquet(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """Parquet has the same tables, in a folder or as the one file that is named."""
    pytest.importorskip("pyarrow")
    cli("embed", csv, "-o", tmp_path, *CSV)
    cli("embed", csv, "-o", tmp_path, "--format", "parquet", *CSV)
    cli("embed", csv, "-o", tmp_path / "named.parquet", *CSV)

    expected = load(tmp_path / "demo.safetensors")
    for name in ("demo.parquet", "named.parquet"):
        found = load(tmp_path / name)
        assert found.settings == expected.settings
        assert set(found.tables) == set(expected.tables)
        np.testing.assert_array_equal(found.tables["embedding"], expected.tables["embedding"])


def test_a_place_that_nobody_can_follow_is_refused(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """Results that are to go where the system will not look, such as a name beyond its limits, end in a sentence."""
    out = tmp_path / ("x" * 300)
    code, _, errors = cli("embed", csv, "-o", out, *CSV)
    assert code == SinkError.exit_code
    assert str(out) in errors


def test_one_bad_file_does_not_keep_the_others(cli: Cli, csv: Path, tmp_path: Path, data_dir: Path) -> None:
    """Each file that fails is one sentence that names it; the others are done; the first failure is the exit code."""
    corrupt = tmp_path / "corrupt.edf"
    corrupt.write_bytes((data_dir / "eeglab" / "test.edf").read_bytes()[:700])
    eyes = write_csv(tmp_path / "eyes.csv", make_recording(6.0, ch_names=("hEOG", "vEOG")))
    nowhere = data_dir / "eeglab" / "test.xdf"
    short = write_csv(tmp_path / "short.csv", make_recording(3.0))
    gone = tmp_path / "gone.fif"

    code, said, errors = cli("embed", nowhere, corrupt, eyes, short, gone, csv, "-o", tmp_path / "out", *CSV)

    assert code == ContractError.exit_code
    *failed, done = said["files"]
    assert done["epochs"] == 1
    words = ["of ch1, ch2,", "cannot be read as EDF", "no EEG channel", "shorter --duration", "is not a file"]
    for row, path, word in zip(failed, (nowhere, corrupt, eyes, short, gone), words, strict=True):
        assert path.name in row["error"]
        assert word in row["error"]
        assert f"error: {row['error']}\n" in errors
    assert len(errors.splitlines()) == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.safetensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "luna-bse"], "there is no model 'luna-bse': use luna-base"),
        (["--outputs", "embeding"], "--outputs: input should be 'embedding'"),
        (["--option", "pool=mean"], "luna has no option 'pool'"),
        (["--option", "vocabulary=loose"], "--option vocabulary: input should be 'strict'"),
        (["--option", "vocabulary"], "no equals sign"),
        (["--mode", "lookahead"], "--lookahead: belongs to mode lookahead"),
        (["--hop", "-1"], "--hop: input should be greater than 0"),
        (["--notch", "fifty"], "--notch: input should be"),
        (["--picks", "Cz,Cz"], "--picks: 'Cz' more than once"),
        (["-o", "a.csv"], "ends in '.csv'"),
    ],
)
def test_wrong_options(cli: Cli, csv: Path, options: list[str], words: str) -> None:
    """An option that cannot be is one sentence in the words of the command line."""
    code, _, error = cli("embed", csv, "-o", csv.parent, *options)

    assert code == ConfigError.exit_code
    assert words in error
    assert "\n" not in error


def test_wrong_options_for_a_file(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """So is one that does not suit a file, or the results that are there."""
    _, said, _ = cli("embed", csv, "-o", tmp_path, "--duration", "5.01", *CSV)
    assert "--duration: 5.01 s is not a whole number" in said["files"][0]["error"]
    cli("embed", csv, "-o", tmp_path, *CSV)
    _, said, _ = cli("embed", csv, "-o", tmp_path, "--notch", "50", *CSV)
    assert "other settings (--notch)" in said["files"][0]["error"]


def test_names_of_files_are_left_alone(cli: Cli, tmp_path: Path) -> None:
    """A file called like a section of a configuration keeps its name in what is said of it."""
    _, said, _ = cli("embed", tmp_path / "signal.edf", "-o", tmp_path)
    assert "signal.edf is not a file" in said["files"][0]["error"]


def test_two_recordings_of_one_name(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """Two results never go to the same file."""
    code, _, error = cli("embed", csv, tmp_path / "b" / "demo.edf", "-o", tmp_path)
    assert code == ConfigError.exit_code
    assert "demo.csv and" in error
    code, _, error = cli("embed", csv, csv, "-o", tmp_path / "a.safetensors")
    assert code == ConfigError.exit_code
    assert "give a folder" in error


def test_csv_and_channel_options(cli: Cli, tmp_path: Path) -> None:
    """Names, times, unit, labels and channels of a CSV file are as the options say."""
    recording = make_recording(6.0)
    rows = [",".join(f"{value / 1e3:.3f}" for value in row) for row in recording.data]
    text = "\n".join(f"{n / 250},note,{row}" for n, row in enumerate(rows))
    (tmp_path / "bare.csv").write_text(text)
    columns = "--csv-columns", "clock,label,Fp1,Cz,E3,T7"

    wishes = "--csv-times", "clock", "--csv-unit", "mV", "--rename", "E3=Oz", "--picks", "Fp1,Oz", "--bipolar", "Fp1-Oz"
    code, _, errors = cli("embed", tmp_path / "bare.csv", "-o", tmp_path / "a.safetensors", *columns, *wishes)

    assert (code, errors) == (0, "")
    found = load(tmp_path / "a.safetensors")
    assert found.meta.ch_names == ("Fp1-Oz",)
    assert found.meta.stream.ch_names == ("Fp1", "Oz")
    assert found.meta.stream.sfreq == 250.0


def test_reconstruct(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """`reconstruct` writes what the model draws beside what it saw, also as luna-rs does, and how far it is off."""
    options = ("--option", "vocabulary=alias", *CSV)
    code, said, errors = cli("reconstruct", csv, "-o", tmp_path / "a.safetensors", *options)

    assert (code, errors) == (0, "")
    found = load_file(tmp_path / "a.safetensors")
    assert found["original"].shape == found["reconstruction"].shape == (1, 4, 1280)
    assert found["output_0"].shape == (4, 1280)
    assert said["files"][0]["rmse_uv"]["channels"]["Cz"] == pytest.approx(found["rmse_uv"][0, 1])
    code, _, error = cli("reconstruct", csv, "-o", tmp_path / "folder", *options)
    assert code == ConfigError.exit_code
    assert "results end in" in error


def test_reports(cli: Cli, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are drawn of each recording into a folder of its own; fewer channels are reported when asked for."""
    drawn: list[tuple[Path, Run]] = []

    def draw(folder: Path, run: Run) -> list[Path]:
        drawn.append((folder, run))
        return [folder / "a.png"]

    monkeypatch.setattr("streamnode.charts.run.write_charts", draw)

    _, said, _ = cli("embed", csv, "-o", tmp_path, "--charts", tmp_path / "charts", "--fewer-channels", *CSV)

    ((folder, run),) = drawn
    assert folder == tmp_path / "charts" / "demo"
    assert run.title == "luna-base, demo.csv"
    assert run.montage.ch_names == NAMES
    assert run.arrays["embedding"].shape == (1, 256)
    assert len(run.epoch_ms) == 1
    assert run.epochs is None
    assert said["files"][0]["charts"] == [str(folder / "a.png")]
    assert [line["channels"] for line in said["files"][0]["fewer_channels"]] == [4, 3, 2, 1]


def test_table_for_people(engine: Engine, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--json` there is a line for each recording, and a word on those that were there."""
    monkeypatch.setattr(build, "load_engine", lambda _: engine)
    arguments = ["embed", str(csv), "-o", str(tmp_path), "--weights", "random:0", *CSV]

    first, again = (CliRunner().invoke(files.app, arguments) for _ in range(2))

    assert "demo.csv" in first.stdout
    assert "demo.csv: " in again.stdout
    assert "up to date" in again.stdout


def test_what_is_not_known_is_null(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """With a bad channel, which nothing is compared with, the JSON is such as any reader takes."""
    options = ("--option", "vocabulary=alias", "--bad-channels", "Oz", *CSV)
    _, said, _ = cli("reconstruct", csv, "-o", tmp_path / "a.safetensors", *options)
    (row,) = said["files"]
    assert row["rmse_uv"]["channels"]["Oz"] is None
    assert row["rmse_uv"]["median"] > 0


def test_json_has_no_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a verb prints: what is not finite is null, at any depth, and what JSON has no word for is text."""
    show_json({"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf}, "d": Path("x")})
    assert json.loads(capsys.readouterr().out, parse_constant=no_json) == {
        "a": [1.5, None, [None, 2]],
        "b": {"c": None},
        "d": "x",
    }
