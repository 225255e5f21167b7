"""What a model said of one recording, in one file: safetensors or Parquet. This page is all a reader needs.

Every table has one row per epoch, in order; Parquet has a column per table, a row of more than one number as a list
with its `shape` in the metadata of the column.

    epoch/seq        int64    number of the epoch; a hole is an epoch that was left out
    epoch/t0         float64  its first sample, seconds from the first sample of the recording
    epoch/t_last     float64  its last sample
    epoch/start      int64    index of its first sample at the model's rate
    epoch/run        int64    run it is of; no epoch crosses from one to the next
    epoch/n_missing  int64    samples that were filled in, not measured
    epoch/settling   bool     the causal filters were still ringing in, or `std_uv` was of too little
    epoch/std_uv     float64  what ZUNA v1 divided it by, where that was not one number for the whole recording
    quality/<fault>  bool     (n_chans,) which channels were flat, railed and so on; `streamnode.types.Fault` has all
    embedding, tokens, logits, reconstruction, attention
                     float32  what was asked for; a reconstruction is in microvolts
    original         float32  (n_chans, n_times) microvolts, what a reconstruction is to be compared with
    rmse_uv          float32  (n_chans,) root of the mean square of their difference, microvolts
    rebuilt          bool     (n_rows,) which channels of a reconstruction have nothing but the model behind them

The metadata is JSON: `meta` describes model, weights, channels and signal chain as `streamnode.wire` does for live
results, `ch_pos` has [x, y, z] metres of the channels as the model sees them (null where unknown), `settings` is all
that these results follow from, `versions` those of the libraries that computed them.

A safetensors file also has what luna-rs and zuna-rs write, so that their readers read it, i counting epochs from 0:

    LUNA, where there are logits or a reconstruction: output_{i} (1, n_classes), or (n_chans, n_times) as z-scores
    ZUNA, where there are tokens: embeddings_{i} (n_tokens, 32), tok_idx_{i} (n_tokens, 4), the bins of x, y, z and t;
        and where there is a reconstruction: reconstructed_{i} (n_rows, n_times), as z-scores
    both: chan_pos_{i} (n_rows, 3) metres, n_samples (1,), the number of epochs as a float32
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from streamnode import wire
from streamnode.errors import ConfigError, SinkError
from streamnode.types import Float32Array, Montage, OutputMeta

SUFFIXES = (".safetensors", ".parquet")

Tables = Mapping[str, NDArray[Any]]
_COMPUTE_WITH = ("numpy", "scipy", "torch")
_OF_A_PORT = re.compile(r"(output|embeddings|tok_idx|reconstructed|chan_pos)_\d+|n_samples")
_ZUNA_BINS = {"zuna-v1": 50, "zuna-1.1": 100}
_ZUNA_BOX_M = 0.12
_ZUNA_EPS_UV, _ZUNA_FLAT_UV = 1.0, 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All that one file holds.

    Attributes:
        meta: model, weights, channels and signal chain.
        montage: the channels as the model sees them.
        settings: all that the results follow from.
        tables: see the head of this file.
    """

    meta: OutputMeta
    montage: Montage
    settings: Mapping[str, Any]
    tables: Tables


def check_suffix(path: Path) -> None:
    """Raise `ConfigError` if results cannot be written under such a name: another suffix, or no pyarrow for Parquet."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} ends in {path.suffix!r}: results end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        _package("pyarrow.parquet")


def write(path: Path, results: Results) -> None:
    """Write a file.

    Args:
        path: as `check_suffix` wants it; a file of this name is replaced.
        results: of at least one epoch.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: the file cannot be written; `written_whole` makes a `SinkError` of it.
    """
    metadata = {
        "meta": wire.encode_meta(results.meta).decode(),
        "ch_pos": json.dumps([xyz if np.isfinite(xyz).all() else None for xyz in results.montage.ch_pos.tolist()]),
        "settings": json.dumps(results.settings),
        "versions": json.dumps({name: version(name) for name in _COMPUTE_WITH}),
    }
    if path.suffix == ".parquet":
        _write_parquet(path, results.tables, metadata)
    else:
        tables = {**results.tables, **_as_its_port(results)}
        save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, path, metadata)


def load(path: Path) -> Results:
    """Read a file back. Raises `ConfigError` if it holds no results."""
    with _readable(path):
        if path.suffix == ".parquet":
            tables, metadata = _read_parquet(path)
        else:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata()
                tables = {name: file.get_tensor(name) for name in list(file.keys()) if not _OF_A_PORT.fullmatch(name)}
        meta = wire.decode_meta(metadata["meta"].encode())
        ch_pos = np.array([xyz or [np.nan] * 3 for xyz in json.loads(metadata["ch_pos"])])
        return Results(meta, Montage(meta.ch_names, ch_pos), json.loads(metadata["settings"]), tables)


def load_settings(path: Path) -> dict[str, Any]:
    """What the results in a file follow from, without reading them. Raises `ConfigError` if it holds none."""
    with _readable(path):
        if path.suffix == ".parquet":
            metadata = _text(_package("pyarrow.parquet").read_schema(path).metadata)
        else:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata()
        settings: dict[str, Any] = json.loads(metadata["settings"])
        return settings


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path to write to, and moves what is there to `path` once all of it is on disk.

    What else is written beside it comes along: a FIF file of more than 2 GB goes on in others, which it knows by name.

    Raises:
        SinkError: it cannot be written, or what comes along would replace files that are none of its own.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
            whole = Path(folder) / path.name
            yield whole
            others = [part for part in sorted(whole.parent.iterdir()) if part != whole]
            if not path.exists() and (taken := [part.name for part in others if (path.parent / part.name).exists()]):
                raise FileExistsError(f"it goes on in {', '.join(taken)}, which is there")
            for part in (*others, whole):
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path.parent / part.name)
    except (OSError, SafetensorError) as error:
        raise SinkError(f"{path} cannot be written ({error}): make room there or choose another place") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:  # pyarrow's are ValueErrors
        raise ConfigError(f"{path} holds no results of streamnode: choose another name, or remove it") from error


# --- Parquet --------------------------------------------------------------------------------------------------------


def _write_parquet(path: Path, tables: Tables, metadata: Mapping[str, str]) -> None:
    pa, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    columns, fields = [], []
    for name, table in tables.items():
        shape = table.shape[1:]
        column = pa.array(table.reshape(-1))
        if shape:
            column = pa.FixedSizeListArray.from_arrays(column, math.prod(shape))
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata={"shape": json.dumps(shape)}))
    schema = pa.schema(fields, metadata=metadata)
    parquet.write_table(pa.Table.from_arrays(columns, schema=schema), path, row_group_size=4096)


def _read_parquet(path: Path) -> tuple[Tables, dict[str, str]]:
    table = _package("pyarrow.parquet").read_table(path)
    tables = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        shape = json.loads(field.metadata[b"shape"])
        chunks = [(chunk.flatten() if shape else chunk).to_numpy(zero_copy_only=False) for chunk in column.chunks]
        tables[field.name] = np.concatenate(chunks).reshape(-1, *shape)
    return tables, _text(table.schema.metadata)


def _text(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'streamnode[files]', or write .safetensors") from error


# --- what the ports write -------------------------------------------------------------------------------------------


def _as_its_port(results: Results) -> dict[str, NDArray[Any]]:
    """The tensors that the port of a model would have written of these results; none where there is no port."""
    model, tables = results.meta.model, results.tables
    rows: dict[str, NDArray[Any]]
    if model.startswith("luna-") and "reconstruction" in tables:
        rows = {"output": _z_scored(tables["reconstruction"], tables["original"])}
    elif model.startswith("luna-") and "logits" in tables:
        rows = {"output": tables["logits"][:, np.newaxis]}
    elif model in _ZUNA_BINS:
        rows = _of_zuna(results)
    else:
        rows = {}
    if not rows:
        return {}
    n_epochs = len(tables["epoch/seq"])
    ch_pos = (results.meta.reconstructed or results.montage).ch_pos.astype(np.float32)
    rows["chan_pos"] = np.broadcast_to(ch_pos, (n_epochs, *ch_pos.shape))
    numbered = {f"{name}_{i}": row for name, table in rows.items() for i, row in enumerate(table)}
    return numbered | {"n_samples": np.array([n_epochs], np.float32)}


def _z_scored(drawn: Float32Array, original: Float32Array) -> Float32Array:
    """Microvolts in the units that LUNA works in: those of the epoch it was given."""
    mean, std = original.mean(axis=2, keepdims=True), original.std(axis=2, ddof=1, keepdims=True)
    z: Float32Array = (drawn - mean) / (std + np.float32(1e-8))
    return z


def _of_zuna(results: Results) -> dict[str, NDArray[Any]]:
    tables, rows = results.tables, dict[str, NDArray[Any]]()
    if "tokens" in tables and results.settings.get("model", {}).get("frame") == "head":
        rows |= {"embeddings": tables["tokens"], "tok_idx": _token_bins(results)}
    if "reconstruction" in tables:
        rows["reconstructed"] = np.stack([_scaled_by_zuna(results, epoch) for epoch in range(len(tables["rebuilt"]))])
    return rows


def _scaled_by_zuna(results: Results, epoch: int) -> Float32Array:
    """Microvolts of an epoch in the standard deviations that `streamnode.models.zuna.normalise` divided it by."""
    original, drawn, rebuilt = (results.tables[name][epoch] for name in ("original", "reconstruction", "rebuilt"))
    good, settings = np.flatnonzero(~rebuilt), results.settings
    reference = original[good].mean(axis=0, dtype=np.float64)
    known = original[good] - reference
    mean, std = np.zeros((len(drawn), 1)), np.empty((len(drawn), 1))
    mean[good] = known.mean(axis=1, keepdims=True)
    if results.meta.model == "zuna-1.1":
        std[good] = known.std(axis=1, keepdims=True) + _ZUNA_EPS_UV
        std[rebuilt] = np.median(std[good])
    else:
        of_all = settings.get("measured", {}).get("std_uv") or settings.get("model", {}).get("std_uv")
        given = results.tables["epoch/std_uv"][epoch] if "epoch/std_uv" in results.tables else of_all
        std[:] = max(given or known.std(), _ZUNA_FLAT_UV)
    scaled: Float32Array = ((drawn - reference - mean) / std).astype(np.float32)
    return scaled


def _token_bins(results: Results) -> NDArray[np.int64]:
    """`(n_epochs, n_tokens, 4)`: where ZUNA puts each token, channel by channel; float32 as there."""
    n_epochs, n_tokens, _ = results.tables["tokens"].shape
    box = np.float32(_ZUNA_BOX_M)
    place = (results.montage.ch_pos.astype(np.float32) + box) / (2 * box) * np.float32(_ZUNA_BINS[results.meta.model])
    bins = np.clip(place.astype(np.int64), 0, _ZUNA_BINS[results.meta.model] - 1)
    n_patches = n_tokens // len(bins)
    times = np.tile(np.arange(n_patches), len(bins))
    index = np.column_stack([np.repeat(bins, n_patches, axis=0), times])
    return np.broadcast_to(index, (n_epochs, *index.shape))
