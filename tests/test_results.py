"""Files of results: whole or not there, the same from either format, and readable by the ports' own readers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from streamnode import results
from streamnode.errors import ConfigError, SinkError
from streamnode.montage import make_montage
from streamnode.results import Results, check_suffix, load, load_settings, write, written_whole
from streamnode.types import OutputMeta, StreamInfo, WeightsInfo

RNG = np.random.default_rng(0)
MONTAGE = make_montage(["Fp1", "Cz", "chin"])
SETTINGS = {"source": [["a.edf", 1, 2]], "signal": {"notch_hz": 50.0}, "model": {"frame": "head"}}


def make_results(model: str = "luna-base", **tables: NDArray[Any]) -> Results:
    meta = OutputMeta(
        node="offline",
        version="1",
        stream=StreamInfo("a", "a-1", "EEG", 128.0, MONTAGE),
        model=model,
        weights=WeightsInfo("random:0", untrained=True),
        ch_names=MONTAGE.ch_names,
        sfreq=256.0,
        duration_s=5.0,
        hop_s=1.0,
        delay_s=0.02,
        signal=("high-pass", "low-pass"),
        shapes={"embedding": (4,)},
    )
    of_epochs: dict[str, NDArray[Any]] = {
        "epoch/seq": np.arange(2),
        "epoch/t0": np.array([0.0, 1.5]),
        "epoch/settling": np.array([True, False]),
    }
    of_epochs["quality/flat"] = RNG.random((2, 3)) > 0.5
    return Results(meta, MONTAGE, SETTINGS, of_epochs | tables)


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("suffix", results.SUFFIXES)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    """Tables of any shape and kind, description, positions and settings come back as they were, NaN included."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    tokens = floats(2, 3, 4)
    tokens[0, 1, 2] = np.nan
    it = make_results("eegpt-large", embedding=floats(2, 4), tokens=tokens, logits=floats(2, 5))
    path = tmp_path / f"a{suffix}"
    write(path, it)

    again = load(path)

    assert set(again.tables) == set(it.tables)
    for name, table in it.tables.items():
        assert again.tables[name].dtype == table.dtype
        np.testing.assert_array_equal(again.tables[name], table)
    assert again.meta == it.meta
    assert again.montage == it.montage
    assert again.settings == load_settings(path) == SETTINGS


def test_luna_reconstructions_as_luna_rs_writes_them(tmp_path: Path) -> None:
    """`output_{i}` are z-scores by mean and unbiased deviation of the epoch, `n_samples` counts the epochs."""
    original = 20 * floats(2, 3, 1280) + 7
    write(tmp_path / "a.safetensors", make_results(original=original, reconstruction=original))

    found = load_file(tmp_path / "a.safetensors")

    z = (original - original.mean(axis=2, keepdims=True)) / original.std(axis=2, keepdims=True, ddof=1)
    np.testing.assert_allclose(found["output_1"], z[1], atol=1e-5)
    np.testing.assert_array_equal(found["chan_pos_0"], MONTAGE.ch_pos.astype(np.float32))
    assert found["n_samples"].tolist() == [2.0]
    assert {"output_0", "chan_pos_1"} < set(found)
    assert "output_2" not in found


def test_luna_logits_as_luna_rs_writes_them(tmp_path: Path) -> None:
    """Logits are a row of their own."""
    logits = floats(2, 5)
    write(tmp_path / "a.safetensors", make_results(logits=logits))

    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["output_1"], logits[1:])


@pytest.mark.parametrize(("model", "n_bins"), [("zuna-v1", 50), ("zuna-1.1", 100)])
def test_zuna_tokens_as_zuna_rs_writes_them(tmp_path: Path, model: str, n_bins: int) -> None:
    """`tok_idx_{i}` has the bins of each token's place, channel by channel, and its number within the window."""
    tokens = floats(2, 6, 32)
    it = make_results(model, tokens=tokens)
    placed = Results(it.meta, make_montage(["Fp1", "Cz", "Oz"]), it.settings, it.tables)
    write(tmp_path / "a.safetensors", placed)

    found = load_file(tmp_path / "a.safetensors")

    np.testing.assert_array_equal(found["embeddings_0"], tokens[0])
    bins = np.clip(np.trunc((placed.montage.ch_pos + 0.12) / 0.24 * n_bins), 0, n_bins - 1).astype(np.int64)
    expected = [[*bins[channel], patch] for channel in range(3) for patch in range(2)]
    np.testing.assert_array_equal(found["tok_idx_1"], expected)
    assert found["tok_idx_1"].dtype == np.int64


def break_off(path: Path, error: BaseException) -> None:
    with written_whole(path) as part:
        part.write_bytes(b"half of")
        raise error


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """A write that breaks off leaves the file as it was, and nothing beside it."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")

    with pytest.raises(SinkError, match=r"a\.safetensors cannot be written \(disk full\)"):
        break_off(path, OSError("disk full"))

    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    """Neither does one that is interrupted."""
    with pytest.raises(KeyboardInterrupt):
        break_off(tmp_path / "new" / "a.safetensors", KeyboardInterrupt())

    assert list((tmp_path / "new").iterdir()) == []


def write_in_two(path: Path) -> None:
    with written_whole(path) as part:
        part.write_bytes(b"first")
        part.with_stem(f"{part.stem}-1").write_bytes(b"second")


def test_what_goes_on_in_a_second_file(tmp_path: Path) -> None:
    """Both are under their names, and when written again both are replaced."""
    (tmp_path / "a.fif").write_bytes(b"before")
    (tmp_path / "a-1.fif").write_bytes(b"before")
    write_in_two(tmp_path / "a.fif")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.fif": b"first", "a-1.fif": b"second"}


def test_second_file_that_would_replace_one_of_someone_else(tmp_path: Path) -> None:
    """What has the name of the second file, but no first, is left alone and named."""
    (tmp_path / "a-1.fif").write_bytes(b"precious")
    with pytest.raises(SinkError, match=r"a\.fif cannot be written \(it goes on in a-1\.fif, which is there\)"):
        write_in_two(tmp_path / "a.fif")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a-1.fif": b"precious"}


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be is one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written"), written_whole(tmp_path / "file" / "a.safetensors"):
        pytest.fail("there is no such place")


@pytest.mark.parametrize("name", ["a.safetensors", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"no results " * 20])
def test_file_of_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that holds no results is said to."""
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="holds no results of streamnode"):
        load(tmp_path / name)
    with pytest.raises(ConfigError, match="holds no results of streamnode"):
        load_settings(tmp_path / name)


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    """Nor does a checkpoint."""
    from safetensors.numpy import save_file  # noqa: PLC0415

    save_file({"weight": floats(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="holds no results of streamnode"):
        load_settings(tmp_path / "a.safetensors")


def test_suffixes() -> None:
    """Only the two formats are written."""
    check_suffix(Path("a.safetensors"))
    with pytest.raises(ConfigError, match=r"ends in '\.csv': results end in \.safetensors or \.parquet"):
        check_suffix(Path("a.csv"))


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional package the error says how to get it, before anything is computed."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamnode\[files\]'"):
        check_suffix(Path("a.parquet"))
