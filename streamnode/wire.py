"""Results and their description as bytes; no I/O. This page is all a client in any language needs.

A result is one map. CBOR (RFC 8949) and JSON have the same keys:

    v           int     version of this format, 1; a reader refuses another and ignores keys it does not know
    model       text    such as "luna-base"
    stream      text    name of the source stream
    seq         int     number of the epoch; it only grows, a hole is an epoch without a result
    run         int     changes at every gap or reconnect of the source
    t0, t_last  float64 time of the first and the last sample of the epoch, seconds on the LSL clock
    n_missing   int     samples of the epoch that were filled in, not measured
    settling    bool    the causal filters were still ringing in
    untrained   bool    the weights are random: the numbers mean nothing
    bad_channels list   optional; names of the channels that were bad in this epoch, whatever was done about them
    marker      map     optional; the event the epoch was cut around: label (text), t (LSL seconds)
    trace       map     optional; LSL seconds at which the epoch passed each station, all optional: t_last, t_arrived,
                        t_epoch, t_enqueued, t_turn (passes of others were over), t_infer0, t_infer1, t_published
    embedding, tokens, logits, reconstruction, attention
                        the arrays that were asked for, float32; a reconstruction is in microvolts

Arrays in CBOR are those of RFC 8746, bit for bit: one axis is tag 85 (a byte string of little-endian float32), several
axes are tag 40 holding `[dims, tag 85]`, row-major, last axis fastest. A 512-value embedding:

    d8 55                tag 85
       59 0800           byte string, 2048 bytes
          00 00 80 3f ...   1.0, ...

Arrays in JSON are nested lists of the shortest decimals that read back as the same float32; what is not a finite number
is null and reads back as NaN. Of an array without values, axes behind the first of length 0 are not kept.

Raw is one array alone: its little-endian float32 bytes, row-major, nothing else. MQTT 5 user properties carry the
rest: every key above except the arrays, then `output` (its name) and `shape` (such as `[62,1280]`). Texts are as they
are, all other values are JSON; but what MQTT forbids in a property, such as control characters, is U+FFFD in a text and
escaped in JSON.

The description of a node (`meta`) is always JSON:

    v, node, version            1; name of the node; version of streamnode
    stream                      map: name, source_id, stype, uid, sfreq (Hz), ch_names and ch_pos, which is [x, y, z]
                                for each channel, metres in the MNE head frame, nulls where the position is unknown;
                                optional: mains_hz, that were heard in it
    model, weights              such as "luna-base"; map: source, revision, sha256, untrained, choices
    ch_names, sfreq             channels and rate (Hz) as the model sees them
    duration_s, hop_s, delay_s  window, step between windows (0: around markers), delay of the chain (off all stamps)
    signal                      the signal chain in words, a list
    shapes                      map of each published output to its shape
    reconstructed               optional; map: ch_names and ch_pos of the rows of a reconstruction
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, Literal, get_args

import cbor2
import numpy as np

from streamnode.types import (
    Float32Array,
    FloatArray,
    Marker,
    ModelOutput,
    Montage,
    OutputMeta,
    OutputName,
    StreamInfo,
    Trace,
    WeightsInfo,
)

VERSION = 1
PayloadFormat = Literal["cbor", "json", "raw"]
CONTENT_TYPE: dict[PayloadFormat, str] = {
    "cbor": "application/cbor",
    "json": "application/json",
    "raw": "application/octet-stream",
}

_OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
_TRACE = tuple(field.name for field in fields(Trace))
_MULTI_DIMENSIONAL, _FLOAT32_LE = 40, 85  # tags of RFC 8746
_REAL = (float, int)  # JSON of other writers has 5 for 5.0
_HEADER: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "stream": (str,),
    "seq": (int,),
    "run": (int,),
    "t0": _REAL,
    "t_last": _REAL,
    "n_missing": (int,),
    "settling": (bool,),
    "untrained": (bool,),
}
# control characters, halves of pairs and what is no character: brokers hang up over them in a topic or a property
NOT_IN_MQTT = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufdd0-\\ufdef"
    + "".join(map(chr, (plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))))
    + "]"
)
_TEXTS = frozenset({"model", "stream", "output"})  # raw: user properties that are not JSON
_RAW_KEYS = frozenset({"v", *_HEADER, "bad_channels", "marker", "trace", "output", "shape"})
_META = tuple(field.name for field in fields(OutputMeta) if field.name not in {"stream", "weights", "reconstructed"})


def encode(output: ModelOutput, fmt: Literal["cbor", "json"]) -> bytes:
    """One result with all its arrays.

    Raises:
        ValueError: JSON of an output whose `t0` or `t_last` is not a finite number.
    """
    if fmt == "cbor":
        return cbor2.dumps(_header(output) | {name: _tagged(array) for name, array in output.arrays().items()})
    return _json(_header(output) | {name: _listed(array) for name, array in output.arrays().items()})


def decode(payload: bytes, fmt: Literal["cbor", "json"]) -> ModelOutput:
    """The inverse of `encode`; arrays are new and writable.

    Raises:
        ValueError: the payload is not a result of this version; the message is one sentence.
    """
    message = _map(_parsed_cbor(payload) if fmt == "cbor" else _parsed(payload))
    read = _untagged if fmt == "cbor" else _unlisted
    return _output(message, {name: read(message[name], name) for name in _OUTPUTS if name in message})


def encode_raw(output: ModelOutput, name: OutputName) -> tuple[bytes, list[tuple[str, str]]]:
    """One array as bare bytes, and the MQTT 5 user properties that describe it.

    Raises:
        ValueError: the output does not hold the array.
    """
    array = output.arrays().get(name)
    if array is None:
        raise ValueError(f"the result of {output.model} has no {name}")
    header = _header(output) | {"output": name, "shape": list(array.shape)}
    sendable = {key: _sendable(value) if key in _TEXTS else _escaped(_json(value)) for key, value in header.items()}
    return array.astype("<f4").tobytes(), list(sendable.items())


def decode_raw(payload: bytes, properties: Iterable[tuple[str, str]]) -> ModelOutput:
    """The inverse of `encode_raw`: a result with one array.

    Raises:
        ValueError: properties are missing or malformed, or the payload does not have the shape they tell.
    """
    message = {key: text if key in _TEXTS else _parsed(text) for key, text in properties if key in _RAW_KEYS}
    name = message.get("output")
    if name not in _OUTPUTS:
        raise ValueError(f"the user property output is {name!r}, not one of {', '.join(_OUTPUTS)}")
    return _output(message, {name: _shaped(payload, message.get("shape"), name)})


def encode_meta(meta: OutputMeta) -> bytes:
    """The description of a node as JSON."""
    stream = {name: getattr(meta.stream, name) for name in ("name", "source_id", "stype", "uid", "sfreq", "ch_names")}
    stream["ch_pos"] = _nulled(meta.stream.montage.ch_pos)
    if meta.stream.mains_hz is not None:
        stream["mains_hz"] = meta.stream.mains_hz
    message = {"v": VERSION} | {name: getattr(meta, name) for name in _META}
    message |= {"stream": stream, "weights": asdict(meta.weights)}
    if meta.reconstructed is not None:
        rows = meta.reconstructed
        message["reconstructed"] = {"ch_names": rows.ch_names, "ch_pos": _nulled(rows.ch_pos)}
    return _json(message)


def decode_meta(payload: bytes) -> OutputMeta:
    """The inverse of `encode_meta`.

    Raises:
        ValueError: the payload is not a description of this version.
    """
    message = _map(_parsed(payload))
    _check_version(message)
    try:
        return _meta(message)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"the description lacks or garbles a key: {error!r}") from error


def _meta(message: Mapping[str, Any]) -> OutputMeta:
    stream = dict(message["stream"])
    montage = _montage(stream.pop("ch_names"), stream.pop("ch_pos"))
    shapes = {name: tuple(message["shapes"][name]) for name in _OUTPUTS if name in message["shapes"]}
    plain = {name: message[name] for name in _META} | {
        "ch_names": tuple(message["ch_names"]),
        "signal": tuple(message["signal"]),
        "shapes": shapes,
    }
    weights = WeightsInfo(**message["weights"])
    rows = message.get("reconstructed")
    reconstructed = None if rows is None else _montage(rows["ch_names"], rows["ch_pos"])
    info = StreamInfo(**stream, montage=montage)
    return OutputMeta(stream=info, weights=weights, reconstructed=reconstructed, **plain)


def _montage(ch_names: list[str], ch_pos: list[list[float | None]]) -> Montage:
    return Montage(tuple(ch_names), np.array(ch_pos, dtype=np.float64).reshape(len(ch_names), 3))


def _header(output: ModelOutput) -> dict[str, Any]:
    header: dict[str, Any] = {"v": VERSION} | {name: getattr(output, name) for name in _HEADER}
    if output.bad_channels:
        header["bad_channels"] = list(output.bad_channels)
    if output.marker is not None:
        header["marker"] = asdict(output.marker)
    if output.trace is not None:
        stations = {name: getattr(output.trace, name) for name in _TRACE}
        header["trace"] = {name: t for name, t in stations.items() if not math.isnan(t)}
    return header


def _output(message: Mapping[str, Any], arrays: dict[OutputName, Float32Array]) -> ModelOutput:
    _check_version(message)
    for name, types in _HEADER.items():
        if type(message.get(name)) not in types:
            raise ValueError(f"{name} of the result is {message.get(name)!r}, not a {types[0].__name__}")
    values: dict[str, Any] = {name: message[name] for name in _HEADER} | arrays
    return ModelOutput(
        **values,
        bad_channels=_bad_channels(message.get("bad_channels", [])),
        marker=_marker(message.get("marker")),
        trace=_trace(message.get("trace")),
    )


def _bad_channels(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("bad_channels of the result is not a list of names")
    return tuple(names)


def _marker(marker: object) -> Marker | None:
    match marker:
        case None:
            return None
        case {"label": str(label), "t": t} if type(t) in _REAL:
            with suppress(OverflowError):
                return Marker(label, float(t))
    raise ValueError("marker of the result is not a map of label and t")


def _trace(stations: object) -> Trace | None:
    if stations is None:
        return None
    if not isinstance(stations, Mapping) or any(type(t) not in _REAL for t in stations.values()):
        raise ValueError("trace of the result is not a map of station to seconds")
    return Trace(**{name: stations.get(name, math.nan) for name in _TRACE})


def _check_version(message: Mapping[str, Any]) -> None:
    if message.get("v") != VERSION:
        raise ValueError(f"the payload has format version {message.get('v')!r} and this reader knows {VERSION}")


def _tagged(array: Float32Array) -> cbor2.CBORTag:
    flat = cbor2.CBORTag(_FLOAT32_LE, array.astype("<f4").tobytes())
    return flat if array.ndim == 1 else cbor2.CBORTag(_MULTI_DIMENSIONAL, [list(array.shape), flat])


def _untagged(value: object, name: str) -> Float32Array:
    match value:
        case cbor2.CBORTag(tag=85, value=bytes(data)):
            return _shaped(data, [len(data) // 4], name)
        case cbor2.CBORTag(tag=40, value=[dims, cbor2.CBORTag(tag=85, value=bytes(data))]):
            return _shaped(data, dims, name)
    raise ValueError(f"{name} of the result is not an RFC 8746 array of little-endian float32")


def _shaped(data: bytes, shape: object, name: str) -> Float32Array:
    if not isinstance(shape, list | tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"the shape of {name} is {shape!r}, not a list of sizes")
    if len(data) != 4 * math.prod(shape):
        raise ValueError(f"{name} has {len(data)} bytes, which is not the shape {list(shape)} in float32")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


def _listed(array: Float32Array) -> Any:
    # numpy prints a float32 with the fewest digits that identify it; as a float64 it keeps just these digits in JSON
    return _nulled(array.astype("U32").astype(np.float64))


def _nulled(array: FloatArray) -> Any:
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def _unlisted(value: object, name: str) -> Float32Array:
    nested = np.array(value, dtype=object)
    if isinstance(value, list) and set(map(type, nested.ravel())) <= {*_REAL, NoneType}:
        with suppress(OverflowError):
            return nested.astype(np.float32)
    raise ValueError(f"{name} of the result is not a nested list of numbers")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _sendable(text: str) -> str:
    return NOT_IN_MQTT.sub("\N{REPLACEMENT CHARACTER}", text)


def _escaped(text: bytes) -> str:
    """The same JSON, in which such characters stand only inside of texts."""
    return NOT_IN_MQTT.sub(lambda found: json.dumps(found[0]).strip('"'), text.decode())


def _parsed(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the payload is not JSON: {error}") from error


def _parsed_cbor(payload: bytes) -> object:
    try:
        return cbor2.loads(payload)
    except cbor2.CBORDecodeError as error:
        raise ValueError(f"the payload is not CBOR: {error}") from error


def _map(message: object) -> dict[str, Any]:
    if isinstance(message, dict):
        return message
    raise ValueError(f"the payload holds a {type(message).__name__}, not a map")
