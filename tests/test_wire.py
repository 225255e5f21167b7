"""Results and descriptions as bytes."""

import json
import math
import struct
from dataclasses import fields, replace
from typing import Any, Literal

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamnode import wire
from streamnode.montage import make_montage
from streamnode.types import Float32Array, Marker, ModelOutput, Montage, OutputMeta, StreamInfo, Trace, WeightsInfo

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
arrays = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32, allow_infinity=False)
)
traces = st.builds(Trace, *[finite] * 7, finite | st.just(math.nan))
outputs = st.builds(
    ModelOutput,
    model=st.text(),
    stream=st.text(),
    seq=counts,
    run=counts,
    t0=finite,
    t_last=finite,
    n_missing=counts,
    settling=st.booleans(),
    untrained=st.booleans(),
    embedding=st.none() | arrays,
    tokens=st.none() | arrays,
    logits=st.none() | arrays,
    reconstruction=st.none() | arrays,
    attention=st.none() | arrays,
    trace=st.none() | traces,
    bad_channels=st.lists(st.text()).map(tuple),
    marker=st.none() | st.builds(Marker, st.text(), finite),
)
RESULT = ModelOutput(
    model="luna-base",
    stream="Wärme & EEG",
    seq=7,
    run=2,
    t0=1234.1,
    t_last=1239.1,
    n_missing=3,
    settling=True,
    untrained=True,
    embedding=np.array([0.1, -0.0, 1e-45, 3.4e38], np.float32),
    tokens=np.arange(6, dtype=np.float32).reshape(2, 3),
    trace=Trace(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
)
META = OutputMeta(
    node="lab-3",
    version="0.1.0",
    stream=StreamInfo(
        "ant", "ant-0042", "EEG", 500.0, Montage(("Fz", "X1"), np.array([[0.0, 0.1, 0.1], [np.nan] * 3]))
    ),
    model="luna-base",
    weights=WeightsInfo("hub:a/b.safetensors", "c0ffee", "ab" * 32),
    ch_names=("Fz",),
    sfreq=256.0,
    duration_s=5.0,
    hop_s=1.0,
    delay_s=0.0175,
    signal=("bandpass 0.1-75 Hz", "resample 500 -> 256 Hz"),
    shapes={"embedding": (256,), "tokens": (32, 64)},
    reconstructed=make_montage(["Cz", "somewhere"]),
)


OUTPUTS = ("embedding", "tokens", "logits", "reconstruction", "attention")
STATIONS = tuple(field.name for field in fields(Trace))
FORMATS: tuple[Literal["cbor", "json"], ...] = ("cbor", "json")
SCALARS = tuple(field.name for field in fields(ModelOutput) if field.name not in {*OUTPUTS, "trace"})


def bits(array: Float32Array) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes, one NaN for all."""
    return array.shape, np.where(np.isnan(array), np.float32(np.nan), array).tobytes()


def assert_same(actual: ModelOutput, expected: ModelOutput) -> None:
    """Every field equal, NaN equal to NaN, -0.0 unequal to 0.0."""
    assert [repr(getattr(actual, name)) for name in SCALARS] == [repr(getattr(expected, name)) for name in SCALARS]
    assert repr(actual.trace) == repr(expected.trace)
    assert {name: bits(a) for name, a in actual.arrays().items()} == {n: bits(a) for n, a in expected.arrays().items()}
    assert all(array.dtype == np.float32 and array.flags.writeable for array in actual.arrays().values())


@pytest.mark.parametrize("fmt", FORMATS)
@given(output=outputs)
def test_round_trip_is_exact(fmt: Literal["cbor", "json"], output: ModelOutput) -> None:
    """Whatever a model says comes back equal in every field, in CBOR as in JSON."""
    assert_same(wire.decode(wire.encode(output, fmt), fmt), output)


@given(outputs)
def test_raw_round_trip_is_exact(output: ModelOutput) -> None:
    """A raw array with its user properties is the result with that one array, its names as far as MQTT allows."""
    names = {name: wire.NOT_IN_MQTT.sub("\ufffd", getattr(output, name)) for name in ("model", "stream")}
    for name, array in output.arrays().items():
        only: dict[str, Any] = dict.fromkeys(OUTPUTS) | {name: array} | names
        payload, properties = wire.encode_raw(output, name)
        assert len(payload) == array.nbytes
        assert not any(wire.NOT_IN_MQTT.search(text) for pair in properties for text in pair)
        assert_same(wire.decode_raw(payload, properties), replace(output, **only))


def test_cbor_keeps_every_bit() -> None:
    """CBOR keeps infinities and the payload bits of a NaN, which a reader may use as a mark."""
    words = np.array([0x7F800000, 0xFF800000, 0x7FC0BEEF, 0x80000000], np.uint32)
    output = replace(RESULT, embedding=words.view(np.float32))
    decoded = wire.decode(wire.encode(output, "cbor"), "cbor").embedding
    assert decoded is not None
    assert decoded.view(np.uint32).tolist() == words.tolist()


def test_cbor_is_the_documented_bytes() -> None:
    """A client that knows CBOR and RFC 8746 but not streamnode reads the arrays from the documented tags."""
    message = cbor2.loads(wire.encode(RESULT, "cbor"))
    assert message["v"] == 1
    assert (message["embedding"].tag, message["embedding"].value) == (85, struct.pack("<4f", 0.1, -0.0, 1e-45, 3.4e38))
    dims, flat = message["tokens"].value
    assert (message["tokens"].tag, list(dims), flat.tag) == (40, [2, 3], 85)
    assert struct.unpack("<6f", flat.value) == (0, 1, 2, 3, 4, 5)
    one = wire.encode(replace(RESULT, embedding=np.ones(512, np.float32)), "cbor")
    assert bytes.fromhex("d855 59 0800 0000803f") in one


def test_json_is_the_documented_text() -> None:
    """JSON writes a float32 with the fewest digits, nulls what is not finite, and leaves out what is unknown."""
    output = replace(RESULT, embedding=np.array([0.1, 1 / 3, np.nan, np.inf], np.float32))
    text = wire.encode(output, "json").decode()
    assert '"embedding":[0.1,0.33333334,null,null]' in text
    assert '"stream":"Wärme & EEG"' in text
    message = json.loads(text)
    assert message["tokens"] == [[0, 1, 2], [3, 4, 5]]
    assert list(message["trace"]) == ["t_last", "t_arrived", "t_epoch", "t_enqueued", "t_turn", "t_infer0", "t_infer1"]
    assert "logits" not in message


def test_encoding_is_independent_of_memory_layout() -> None:
    """A transposed or big-endian array is encoded by its values, row-major and little-endian."""
    tokens = np.arange(6, dtype=np.float32).reshape(3, 2)
    view = np.ascontiguousarray(tokens.T).T.astype(">f4", order="K")
    for fmt in FORMATS:
        assert wire.encode(replace(RESULT, tokens=view), fmt) == wire.encode(replace(RESULT, tokens=tokens), fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_unknown_keys_are_ignored(fmt: Literal["cbor", "json"]) -> None:
    """A later writer may add keys without breaking this reader."""
    payload = wire.encode(RESULT, fmt)
    message = cbor2.loads(payload) if fmt == "cbor" else json.loads(payload)
    message |= {"weather": "fine", "trace": message["trace"] | {"t_lunch": 12.0}}
    more = cbor2.dumps(message) if fmt == "cbor" else json.dumps(message).encode()
    assert_same(wire.decode(more, fmt), RESULT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "the payload has format version 2 and this reader knows 1"),
        ({"seq": "7"}, "seq of the result is '7', not a int"),
        ({"seq": True}, "seq of the result is True"),
        ({"settling": 1}, "settling of the result is 1, not a bool"),
        ({"model": None}, "model of the result is None, not a str"),
        ({"trace": 5}, "trace of the result is not a map"),
        ({"trace": {"t_last": "noon"}}, "trace of the result is not a map"),
        ({"marker": {"label": "go", "t": 10**400}}, "marker of the result is not a map"),
        ({"marker": {"label": "go", "t": True}}, "marker of the result is not a map"),
        ({"embedding": b"1234"}, "embedding of the result is not an RFC 8746 array"),
        ({"embedding": cbor2.CBORTag(86, b"12345678")}, "embedding of the result is not an RFC 8746 array"),
        ({"embedding": cbor2.CBORTag(85, b"12345")}, "embedding has 5 bytes"),
        ({"tokens": cbor2.CBORTag(40, [[2, 3], cbor2.CBORTag(85, b"1234")])}, r"not the shape \[2, 3\]"),
        ({"tokens": cbor2.CBORTag(40, [[-1, -1], cbor2.CBORTag(85, b"1234")])}, "not a list of sizes"),
        ({"tokens": cbor2.CBORTag(40, [4, cbor2.CBORTag(85, b"1234")])}, "not a list of sizes"),
    ],
)
def test_malformed_cbor_is_told(change: dict[str, object], message: str) -> None:
    """A CBOR payload with one wrong value is refused with the name of what is wrong."""
    payload = cbor2.dumps(cbor2.loads(wire.encode(RESULT, "cbor")) | change)
    with pytest.raises(ValueError, match=message):
        wire.decode(payload, "cbor")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "holds a list, not a map"),
        (b"{}", "format version None"),
        (b'{"v":1,"embedding":[[1],[2,3]]}', "embedding of the result is not a nested list"),
        (b'{"v":1,"embedding":{}}', "embedding of the result is not a nested list"),
        (b'{"v":1,"embedding":["1.5","nan"]}', "embedding of the result is not a nested list"),
        (b'{"v":1,"embedding":[true]}', "embedding of the result is not a nested list"),
        (b'{"v":1,"embedding":[1' + b"0" * 400 + b"]}", "embedding of the result is not a nested list"),
        (b'{"v":1,"embedding":' + b"[" * 40 + b"]" * 40 + b"}", "model of the result is None"),
        (b'{"v":1,"embedding":' + b"[" * 500 + b"]" * 500 + b"}", "embedding of the result is not a nested list"),
    ],
)
def test_malformed_json_is_told(payload: bytes, message: str) -> None:
    """What is not a result in JSON is refused in a sentence."""
    with pytest.raises(ValueError, match=message):
        wire.decode(payload, "json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "soul"}, "the user property output is 'soul', not one of embedding"),
        ({"shape": "[5]"}, r"embedding has 16 bytes, which is not the shape \[5\]"),
        ({"shape": "4;"}, "not JSON"),
        ({"seq": "null"}, "seq of the result is None"),
    ],
)
def test_malformed_raw_is_told(change: dict[str, str], message: str) -> None:
    """Raw bytes whose user properties do not fit them are refused."""
    payload, properties = wire.encode_raw(RESULT, "embedding")
    with pytest.raises(ValueError, match=message):
        wire.decode_raw(payload, (dict(properties) | change).items())


def test_raw_of_an_absent_array_is_refused() -> None:
    """Asking for an array the model did not yield says which."""
    with pytest.raises(ValueError, match="the result of luna-base has no logits"):
        wire.encode_raw(RESULT, "logits")


@given(st.binary())
def test_noise_is_refused(noise: bytes) -> None:
    """Random bytes raise `ValueError` and nothing else, whatever they are read as."""
    for fmt in FORMATS:
        with pytest.raises(ValueError, match="payload"):
            wire.decode(noise, fmt)
    with pytest.raises(ValueError, match="payload"):
        wire.decode_meta(noise)


def test_meta_round_trip() -> None:
    """The description comes back equal, unknown positions and numbers to the last bit included."""
    assert wire.decode_meta(wire.encode_meta(META)) == META
    heard = replace(META, stream=replace(META.stream, mains_hz=50.0))
    assert wire.decode_meta(wire.encode_meta(heard)) == heard
    assert json.loads(wire.encode_meta(META))["stream"]["ch_pos"] == [[0.0, 0.1, 0.1], [None, None, None]]


@pytest.mark.parametrize(
    "change",
    [
        {"stream": None},
        {"shapes": 5},
        {"weights": {"colour": "red"}},
        {"signal": None},
        {"reconstructed": {"ch_names": ["Cz"], "ch_pos": [[10**400] * 3]}},
    ],
)
def test_malformed_meta_is_told(change: dict[str, object]) -> None:
    """A description with a missing or foreign value raises `ValueError`."""
    payload = json.dumps(json.loads(wire.encode_meta(META)) | change).encode()
    with pytest.raises(ValueError, match="the description lacks or garbles a key"):
        wire.decode_meta(payload)
