from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from streamnode import config
from streamnode.config import LslSourceConfig, MqttSinkConfig, NodeConfig, ReplaySourceConfig, Secret
from streamnode.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
SOURCE = "source: {kind: lsl}\n"
MODEL = "model: {kind: luna}\n"
SINKS = "sinks: [{kind: lsl, name: out}]\n"
MQTT = "kind: mqtt, url: mqtt://broker, topic: eeg"
TEXTS = "a non-empty list, each item text"
OUTPUTS = "'embedding', 'tokens', 'logits', 'reconstruction' or 'attention'"
PLAIN = "sinks.0.password: never in plain text; use {env: NAME} or {file: PATH}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.yaml"


def parse(file: Path, text: str) -> NodeConfig:
    file.write_text(text, encoding="utf-8")
    return config.load(file)


def problems(file: Path, text: str) -> list[str]:
    """The lines of the error, without the path of the file they all begin with."""
    with pytest.raises(ConfigError) as caught:
        parse(file, text)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


def test_defaults(file: Path) -> None:
    """Source, model and sinks by kind are enough; all else has the documented defaults."""
    node = parse(file, SOURCE + MODEL + SINKS)
    assert (node.node.name, node.node.http) == ("streamnode", "127.0.0.1:8765")
    assert isinstance(node.source, LslSourceConfig)
    assert (node.source.stype, node.source.timeout_s, node.source.stall_s) == ("EEG", None, 2.0)
    assert (node.epoch.duration_s, node.epoch.hop_s, node.epoch.policy) == (5.0, 1.0, "latest")
    assert (node.signal.mode, node.signal.notch_hz) == ("causal", None)
    assert (node.model.variant, node.model.weights, node.model.device) == ("base", "hub", "auto")
    assert (node.model.precision, node.model.outputs) == ("float32", ("embedding",))
    assert (node.model.load_options, node.model.bind_options) == ({}, {"vocabulary": "strict"})


def test_frozen(file: Path) -> None:
    """A loaded configuration cannot be changed, not even inside its lists."""
    node = parse(file, SOURCE + MODEL + SINKS)
    with pytest.raises(ValidationError, match="frozen"):
        node.epoch.hop_s = 2.0
    assert hash(node) == hash(parse(file, SOURCE + MODEL + SINKS))


def test_yaml_1_2(file: Path) -> None:
    """Scalars mean what YAML 1.2 says: `no` is a word, `1e-1` a number and `12:30` neither time nor number."""
    node = parse(file, "node: {name: no}\nsource: {kind: lsl, name: 12:30}\nepoch: {hop_s: 1e-1}\n" + MODEL + SINKS)
    assert isinstance(node.source, LslSourceConfig)
    assert (node.node.name, node.source.name, node.epoch.hop_s) == ("no", "12:30", 0.1)


def test_anchors_and_byte_order_mark(file: Path) -> None:
    """Merged keys and the byte order mark some editors write are understood."""
    text = "source: {kind: lsl}\nmodel: {kind: luna}\nsinks: [&a {kind: lsl, name: x}, {<<: *a, name: y}]\n"
    assert [sink.name for sink in parse(file, "\ufeff" + text).sinks if sink.kind == "lsl"] == ["x", "y"]


def test_relative_paths(file: Path) -> None:
    """Paths count from the folder of the YAML file, wherever the node is started; absolute ones stay."""
    node = parse(
        file,
        "source: {kind: replay, file: data/a.edf, speed: max}\nmodel: {kind: luna, weights: w/luna.safetensors}\n"
        "sinks: [{kind: mqtt, url: mqtts://h, topic: t, ca_file: /ca.pem, password: {file: pw}}]\n",
    )
    (sink,) = node.sinks
    assert isinstance(node.source, ReplaySourceConfig)
    assert isinstance(sink, MqttSinkConfig)
    assert node.source.file == file.parent / "data/a.edf"
    assert node.model.weights == str(file.parent / "w/luna.safetensors")
    assert sink.ca_file == Path("/ca.pem")
    assert sink.password is not None
    assert sink.password.file == file.parent / "pw"


@pytest.mark.parametrize("weights", ["hub", "random:7"])
def test_weights_that_are_no_path(file: Path, weights: str) -> None:
    """`hub` and `random:SEED` are taken as they are."""
    assert parse(file, SOURCE + f"model: {{kind: luna, weights: {weights}}}\n" + SINKS).model.weights == weights


def test_predicate_takes_any_type(file: Path) -> None:
    """A predicate stands alone: the default type EEG does not narrow it."""
    source = parse(file, "source: {kind: lsl, predicate: channel_count>8}\n" + MODEL + SINKS).source
    assert isinstance(source, LslSourceConfig)
    assert (source.predicate, source.stype) == ("channel_count>8", None)


@pytest.mark.parametrize("http", ["null", "127.0.0.1:0", '"[::1]:65535"', "lab-3.local:80"])
def test_http_addresses(file: Path, http: str) -> None:
    """The status page takes host:port, IPv6 included, or none at all."""
    assert parse(file, f"node: {{http: {http}}}\n" + SOURCE + MODEL + SINKS).node.http == YAML(typ="safe").load(http)


def test_all_problems_at_once(file: Path) -> None:
    """One attempt shows every problem of every section, in the order of the file."""
    text = """\
source:
  kind: lsl
  timeout: 3
epoch:
  hop_s: abc
  hop_s: 2
model:
  kind: luna
  outputs: [embedding, embeding]
sinks:
  - kind: mqtt
    ulr: mqtt://broker
    topic: a/#
nood: {name: x}
"""
    assert problems(file, text) == [
        "3:3: source.timeout: unknown key, did you mean 'timeout_s'?",
        "5:3: epoch.hop_s: should be a number greater than 0 and at most 3600, got 'abc'",
        "6:3: epoch.hop_s: duplicate key, first on line 5",
        f"9:24: model.outputs.1: should be {OUTPUTS}, got 'embeding'",
        "11:5: sinks.0.url: missing; should be mqtt://host:port, or mqtts://host:port for TLS",
        "12:5: sinks.0.ulr: unknown key, did you mean 'url'?",
        "13:5: sinks.0.topic: should be a topic without +, # and control characters, got 'a/#'",
        "14:1: nood: unknown key, did you mean 'node'?",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("node: {name: a b}", "1:8: node.name: should be letters, digits, '-', '_' and '.' only, got 'a b'"),
        ("node: {http: h:65536}", "1:8: node.http: should be host:port, such as 127.0.0.1:8765, got 'h:65536'"),
        ("node: {nmae: x}", "1:8: node.nmae: unknown key, did you mean 'name'?"),
        ("node: {zzz: x}", "1:8: node.zzz: unknown key; known here: name, http"),
        ("node: {1: x}", "1:8: node.1: unknown key; known here: name, http"),
        ("node:", "1:1: node: should be a block of keys, got nothing"),
        ("epoch: {hop_s: 0}", "1:9: epoch.hop_s: should be a number greater than 0 and at most 3600, got 0"),
        ("epoch: {hop_s: true}", "1:9: epoch.hop_s: should be a number greater than 0 and at most 3600, got true"),
        ("epoch: {hop_s: '1'}", "1:9: epoch.hop_s: should be a number greater than 0 and at most 3600, got '1'"),
        (
            "epoch: {duration_s: .nan}",
            "1:9: epoch.duration_s: should be a number greater than 0 and at most 3600, got nan",
        ),
        (
            "epoch: {duration_s: }",
            "1:9: epoch.duration_s: should be a number greater than 0 and at most 3600, got nothing",
        ),
        ("epoch: {policy: newest}", "1:9: epoch.policy: should be 'latest' or 'all', got 'newest'"),
        (
            "signal: {mode: windw}",
            "1:10: signal.mode: should be 'causal', 'window', 'lookahead' or 'recording', got 'windw'",
        ),
        (
            "signal: {mode: recording}",
            "1:10: signal.mode: recording is of files; use causal, window or lookahead for a stream",
        ),
        ("signal: {picks: Cz}", f"1:10: signal.picks: should be {TEXTS}, got 'Cz'"),
        ("signal: {picks: []}", f"1:10: signal.picks: should be {TEXTS}, got an empty list"),
        ("signal: {picks: [Cz, {}]}", "1:22: signal.picks.1: should be text, got a block of keys"),
        ("signal: {picks: [Cz, Cz]}", "1:10: signal.picks: 'Cz' more than once; list each name once"),
        (
            "signal: {reference: [3]}",
            f"1:10: signal.reference: should be 'as_recorded' or 'average' or {TEXTS}, got a list",
        ),
        ("signal: {l_freq: 40, h_freq: 4}", "1:10: signal.l_freq: should be below h_freq, got 40 and 4 Hz"),
    ],
)
def test_wrong_options(file: Path, line: str, expected: str) -> None:
    """A wrong value of an optional section is told where it stands, in plain words."""
    assert problems(file, f"{line}\n" + SOURCE + MODEL + SINKS) == [expected]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("lsl", "1:1: source: should be a block of keys, got 'lsl'"),
        ("{}", "1:1: source.kind: missing; should be 'aligned', 'lsl', 'replay' or 'synthetic'"),
        ("{kind: lls}", "1:10: source.kind: should be 'aligned', 'lsl', 'replay' or 'synthetic', got 'lls'"),
        (
            "{kind: lsl, lsl: 1}",
            (
                "1:21: source.lsl: unknown key; known here: label, name, source_id, stype, predicate, timeout_s, "
                "kind, stall_s, fill, on_change, cap"
            ),
        ),
        ("{kind: lsl, name: 3}", "1:21: source.name: should be text, got 3"),
        ("{kind: lsl, stall_s: 0}", "1:21: source.stall_s: should be a number greater than 0, got 0"),
        (
            "{kind: lsl, predicate: x, name: a, stype: EEG}",
            "1:21: source.predicate: replaces name and stype; give one or the other",
        ),
        (
            "{kind: lsl, cap: biosemi65}",
            (
                "1:21: source.cap: there is no cap 'biosemi65'; choose one of biosemi16, biosemi32, biosemi64, "
                "biosemi128, biosemi160, biosemi256, egi32, egi64, egi128, egi256"
            ),
        ),
        (
            "{kind: aligned, sources: [{kind: lsl}]}",
            "1:25: source.sources: should be two streams or more; use a single one as the source itself",
        ),
        (
            "{kind: aligned, sources: [{kind: lsl}, {kind: lsl}], prefixes: [A-]}",
            "1:62: source.prefixes: should be 2, one for each of the sources, '' for none",
        ),
        ("{kind: replay}", "1:1: source.file: missing; should be a path"),
        ("{kind: replay, file: 3}", "1:24: source.file: should be a path, got 3"),
        (
            "{kind: replay, file: a, speed: fast}",
            "1:33: source.speed: should be a number greater than 0 or 'max', got 'fast'",
        ),
        ("{kind: replay, file: a, loop: yes}", "1:33: source.loop: should be true or false, got 'yes'"),
        (
            "{kind: synthetic, sfreq: 30}",
            "1:27: source.sfreq: should be a number greater than 30 and at most 100000, got 30",
        ),
        (
            "{kind: synthetic, n_chans: 65}",
            "1:27: source.n_chans: should be a whole number of at least 1 and at most 64, got 65",
        ),
        (
            "{kind: synthetic, n_chans: 1, ch_names: [Cz]}",
            "1:27: source.n_chans: ch_names already says how many; give one or the other",
        ),
        (
            "{kind: synthetic, seed: 1.5}",
            "1:27: source.seed: should be a whole number of at least 0 and at most 9007199254740991, got 1.5",
        ),
    ],
)
def test_wrong_sources(file: Path, source: str, expected: str) -> None:
    """Each kind of source knows its own keys, and says what they should be."""
    assert problems(file, f"source: {source}\n" + MODEL + SINKS) == [expected]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{}", "1:1: model.kind: missing; should be 'eegdino', 'eegpt', 'luna' or 'zuna'"),
        ("{kind: lunar}", "1:9: model.kind: should be 'eegdino', 'eegpt', 'luna' or 'zuna', got 'lunar'"),
        ("{kind: luna, variant: tiny}", "1:21: model.variant: should be 'base', 'large' or 'huge', got 'tiny'"),
        (
            "{kind: luna, weights: 'random:'}",
            "1:21: model.weights: random weights need a seed that is a whole number, such as random:0",
        ),
        ("{kind: luna, sha256: abc}", "1:21: model.sha256: should be 64 lowercase hexadecimal digits, got 'abc'"),
        ("{kind: luna, device: gpu}", "1:21: model.device: should be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (
            "{kind: luna, threads: 0}",
            "1:21: model.threads: should be a whole number of at least 1 and at most 1024 or 'auto', got 0",
        ),
        (
            "{kind: luna, outputs: []}",
            f"1:21: model.outputs: should be a non-empty list, each item {OUTPUTS}, got an empty list",
        ),
        (
            "{kind: luna, outputs: [tokens, tokens]}",
            "1:21: model.outputs: 'tokens' more than once; list each name once",
        ),
        (
            "{kind: zuna, guidance: 2}",
            "1:21: model.guidance: steers a reconstruction; add that to outputs, or leave guidance out",
        ),
        (
            "{kind: zuna, std_uv: 5}",
            "1:21: model.std_uv: is of v1 alone, and 1.1 measures each channel; leave it out",
        ),
        (
            "{kind: zuna, add: 0}",
            "1:21: model.add: should be a non-empty list, each item text or a whole number of at least 1, got 0",
        ),
        (
            "{kind: zuna, add: [Cz, Qz, nose]}",
            "1:21: model.add: the 10-05 system has no Qz, nose to add: use its names, such as Cz or FCz",
        ),
        (
            "{kind: zuna, add: [Cz, CZ]}",
            "1:21: model.add: more than one channel is Cz (labelled 'Cz', 'CZ'): rename or drop all but one",
        ),
    ],
)
def test_wrong_models(file: Path, model: str, expected: str) -> None:
    """A wrong key of the model is told in one line."""
    assert problems(file, f"model: {model}\n" + SOURCE + SINKS) == [expected]


@pytest.mark.parametrize(
    ("sinks", "expected"),
    [
        ("[]", "1:1: sinks: should be a non-empty list, each item a block of keys, got an empty list"),
        ("{}", "1:1: sinks: should be a non-empty list, each item a block of keys, got a block of keys"),
        ("[mqtt]", "1:9: sinks.0: should be a block of keys, got 'mqtt'"),
        ("[{kind: udp}]", "1:10: sinks.0.kind: should be 'lsl', 'lsl-eeg' or 'mqtt', got 'udp'"),
        ("[{kind: lsl}]", "1:9: sinks.0.name: missing; should be text"),
        (
            "[{kind: mqtt, url: http://h, topic: t}]",
            "1:22: sinks.0.url: should be mqtt://host:port, or mqtts://host:port for TLS, got 'http://h'",
        ),
        (
            "[{kind: mqtt, url: mqtt://h, topic: ''}]",
            "1:37: sinks.0.topic: should be a topic without +, # and control characters, got nothing",
        ),
        (
            "[{kind: mqtt, url: mqtt://broker..local, topic: t}]",
            "1:22: sinks.0.url: should be mqtt://host:port, or mqtts://host:port for TLS, got 'mqtt://broker..local'",
        ),
        (
            "[{kind: mqtt, url: mqtt://H/, topic: t}, {kind: mqtt, url: mqtt://h, topic: t}]",
            "1:77: sinks.1.topic: sinks.0 has the same url and topic; give each sink its own",
        ),
        (f"[{{{MQTT}, qos: 2}}]", "1:54: sinks.0.qos: should be 0 or 1, got 2"),
        (f"[{{{MQTT}, ca_file: a}}]", "1:54: sinks.0.ca_file: has no effect without TLS; change the url to mqtts://"),
        (
            "[{kind: lsl, name: a, outputs: [logits]}]",
            "1:30: sinks.0.outputs: 'logits' is not computed; add it to model.outputs",
        ),
        (
            "[{kind: lsl, name: a}, {kind: lsl, name: a}]",
            "1:43: sinks.1.name: sinks.0 has the same name; give each sink its own",
        ),
        (
            f"[{{{MQTT}}}, {{kind: lsl, name: eeg}}, {{{MQTT}, qos: 1}}]",
            "1:112: sinks.2.topic: sinks.0 has the same url and topic; give each sink its own",
        ),
    ],
)
def test_wrong_sinks(file: Path, sinks: str, expected: str) -> None:
    """Sinks are checked one by one, against each other and against the model."""
    assert problems(file, f"sinks: {sinks}\n" + SOURCE + MODEL) == [expected]


def test_sinks_in_conflict_are_all_told(file: Path) -> None:
    """Comparing sections finds every conflict, not just the first."""
    sinks = "[{kind: lsl, name: a, outputs: [logits]}, {kind: lsl, name: a, outputs: [tokens]}]"
    assert problems(file, f"sinks: {sinks}\n" + SOURCE + MODEL) == [
        "1:30: sinks.0.outputs: 'logits' is not computed; add it to model.outputs",
        "1:62: sinks.1.name: sinks.0 has the same name; give each sink its own",
        "1:71: sinks.1.outputs: 'tokens' is not computed; add it to model.outputs",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " the file is empty; it needs at least source, model and sinks"),
        ("# nothing yet\n", " the file is empty; it needs at least source, model and sinks"),
        ("[1]", "1:1: should be a block of keys, got a list"),
        ("a: [1", "1:6: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a:\n  b: c: d", "2:7: not valid YAML: mapping values are not allowed here"),
        (
            "a: @b",
            "1:4: not valid YAML: while scanning for the next token, found character '@' that cannot start any token",
        ),
        ("a: 1\n---\n", "2:1: not valid YAML: expected a single document in the stream, but found another document"),
        ("a: \x01", " not valid YAML: unacceptable character #x0001: special characters are not allowed"),
        ("a: !!set {b, c}", "1:4: not valid YAML: a list or a block of keys has a tag: leave it out"),
        ("a: 2024-13-01", " not valid YAML: month must be in 1..12"),
    ],
)
def test_not_a_configuration(file: Path, text: str, expected: str) -> None:
    """What is no YAML mapping at all is refused in one sentence, with its place where YAML knows it."""
    assert problems(file, text) == [expected]


def test_duplicates_everywhere(file: Path) -> None:
    """Every repeated key is told, at any depth, and aliases that bite their own tail end the search."""
    text = "node: &n {name: a, name: b, http: *n}\n" + SOURCE + MODEL + SINKS + "epoch: {}\nepoch: {}\n"
    assert problems(file, text) == [
        "1:20: node.name: duplicate key, first on line 1",
        "1:29: node.http: should be host:port, such as 127.0.0.1:8765, got a block of keys",
        "6:1: epoch: duplicate key, first on line 5",
    ]


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not text are each told in one sentence."""
    missing, latin = tmp_path / "no.yaml", tmp_path / "latin.yaml"
    latin.write_bytes(b"node: {name: \xff}")
    with pytest.raises(ConfigError) as caught:
        config.load(missing)
    assert str(caught.value) == f"{missing}: cannot be read (No such file or directory); give the path of a YAML file"
    with pytest.raises(ConfigError) as caught:
        config.load(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory); give the path of a YAML file"
    with pytest.raises(ConfigError, match="not valid YAML: 'utf-8' codec can't decode byte 0xff"):
        config.load(latin)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("password: hunter2", PLAIN),
        ("password: 1234567", PLAIN),
        ("password: [hunter2]", PLAIN),
        ("password: {hunter2}", PLAIN),
        ("password: {env: null}", PLAIN),
        ("password: {env: A, file: hunter2}", PLAIN),
        ("password: {env: hunter2!}", "sinks.0.password.env: should be the name of an environment variable"),
        ("password: {file: {hunter2}}", "sinks.0.password.file: should be a path"),
        ("pasword: hunter2", "sinks.0.pasword: unknown key, did you mean 'password'?"),
        ("password: *hunter2", "not valid YAML: found undefined alias"),
        ("password: !hunter2 x", "not valid YAML: could not determine a constructor for the tag"),
    ],
)
def test_secrets_stay_out_of_errors(file: Path, entry: str, expected: str) -> None:
    """Whatever way a password is written in plain text, the error does not repeat it."""
    (line,) = problems(file, f"sinks: [{{{MQTT}, {entry}}}]\n" + SOURCE + MODEL)
    assert re.sub(r"^\d+:\d+: ", "", line) == expected
    assert "hunter2" not in line


def test_login_in_the_address(file: Path) -> None:
    """A login inside the address of the broker is refused without being repeated."""
    (line,) = problems(file, "sinks: [{kind: mqtt, url: mqtt://me:hunter2@h, topic: t}]\n" + SOURCE + MODEL)
    assert line == "1:22: sinks.0.url: no login in the address; use username and password: {env: NAME}"


def test_secrets_are_nowhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolved password is in no text made of the configuration, and the public form has no trace of one."""
    monkeypatch.setenv("MQTT_PASSWORD", "hunter2")
    node = parse(file, f"sinks: [{{{MQTT}, username: me, password: {{env: MQTT_PASSWORD}}}}]\n" + SOURCE + MODEL)
    (sink,) = node.sinks
    assert isinstance(sink, MqttSinkConfig)
    assert sink.password is not None
    assert sink.password.resolve() == "hunter2"
    public = json.dumps(node.to_public_dict())
    assert "hunter2" not in repr(node) + str(node) + repr(sink.password) + public
    assert "MQTT_PASSWORD" not in public
    assert node.to_public_dict()["sinks"][0]["username"] == "me"


def test_secret_from_file(tmp_path: Path) -> None:
    """A password file may end in a newline; spaces are part of the password."""
    path = tmp_path / "password"
    path.write_text(" hunter 2 \n", encoding="utf-8")
    assert Secret(file=path).resolve() == " hunter 2 "


def test_absent_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that is not where it should be is an error in one sentence, when the node starts."""
    monkeypatch.delenv("MQTT_PASSWORD", raising=False)
    with pytest.raises(ConfigError) as caught:
        Secret(env="MQTT_PASSWORD").resolve()
    assert str(caught.value) == (
        "there is no readable password in the environment variable MQTT_PASSWORD; put it there before the start"
    )
    with pytest.raises(ConfigError) as caught:
        Secret(file=tmp_path / "none").resolve()
    assert str(caught.value) == f"there is no readable password in {tmp_path / 'none'}; put it there before the start"


def test_pydantic_keeps_inputs_to_itself() -> None:
    """Even the error of a configuration built in Python does not show what was given."""
    with pytest.raises(ValidationError) as caught:
        MqttSinkConfig.model_validate({"kind": "mqtt", "url": "mqtt://h", "topic": "t", "password": "hunter2"})
    assert "hunter2" not in str(caught.value)


def accepts(node: dict[str, Any], value: Any, defs: dict[str, Any]) -> bool:
    """Whether a JSON schema accepts a value, as far as the keywords of ours go."""
    match node:
        case {"$ref": str(name)}:
            good = accepts(defs[name.removeprefix("#/$defs/")], value, defs)
        case {"anyOf": options} | {"oneOf": options}:
            good = any(accepts(option, value, defs) for option in options)
        case {"enum": values}:
            good = value in values
        case {"const": only}:
            good = value == only
        case {"type": "object", "properties": known}:
            good = isinstance(value, dict) and set(node.get("required", ())) <= value.keys() <= known.keys()
            good = good and all(accepts(known[key], item, defs) for key, item in value.items())
        case {"type": "array", "items": items}:
            good = isinstance(value, list) and all(accepts(items, item, defs) for item in value)
        case {"type": "string"}:
            good = isinstance(value, str) and re.search(node.get("pattern", ""), value) is not None
        case {"type": kind}:
            kinds: dict[str, Any] = {"number": (int, float), "integer": int, "boolean": bool, "null": type(None)}
            good = isinstance(value, kinds[kind]) and (
                kind != "number" or value > node.get("exclusiveMinimum", -math.inf)
            )
    return good


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configs(path: Path) -> None:
    """Every configuration shipped loads, is accepted by the schema it names, and is refused with a key too many."""
    schema = json.loads((CONFIGS / "schema.json").read_text("utf-8"))
    data = YAML(typ="safe", pure=True).load(path)
    assert isinstance(config.load(path), NodeConfig)
    assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=./schema.json\n")
    assert accepts(schema, data, schema["$defs"])
    assert not accepts(schema, {**data, "epoch": {"hop": 1}}, schema["$defs"])
    assert not accepts(schema, {**data, "epoch": {"hop_s": 0}}, schema["$defs"])


def test_demo() -> None:
    """The demo needs no download and no other machine."""
    demo = config.load(CONFIGS / "demo.yaml")
    assert demo.model.weights == "random:0"
    assert [sink.url for sink in demo.sinks if sink.kind == "mqtt"] == ["mqtt://127.0.0.1:18830"]


def test_schema_is_fresh(tmp_path: Path) -> None:
    """The schema in `configs/` is what the code says now; `make schema` writes it anew."""
    config.write_schema(tmp_path / "schema.json")
    assert (CONFIGS / "schema.json").read_text("utf-8") == (tmp_path / "schema.json").read_text("utf-8")


def test_every_key_is_described() -> None:
    """An editor can explain every key of every section."""
    schema = config.schema()
    sections = [schema, *schema["$defs"].values()]
    keys = [(key, node) for section in sections for key, node in section["properties"].items()]
    assert [key for key, node in keys if not node.keys() & {"description", "$ref"}] == []
    assert [section["title"] for section in sections if not section.get("description")] == []


def test_schema_is_a_copy() -> None:
    """Changing a schema that was handed out changes no later one."""
    config.schema()["properties"].clear()
    assert "source" in config.schema()["properties"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("# none", "2:1: source: missing; give source, or sources for several"),
        (
            "source: {kind: lsl}\nsources: [{kind: lsl, label: a}]",
            "1:1: source: one of source and sources is enough; put all under sources",
        ),
        (
            "sources: [{kind: lsl, label: a}, {kind: synthetic}]",
            "1:34: sources.1.label: missing; should be a name that tells this stream from the others",
        ),
        (
            "sources: [{kind: lsl, label: a}, {kind: synthetic, label: a}]",
            "1:52: sources.1.label: 'a' is taken; give each stream its own",
        ),
    ],
)
def test_several_sources_are_told_apart(file: Path, sources: str, expected: str) -> None:
    """Either one source, or several with a label each."""
    assert problems(file, f"{sources}\n{MODEL}{SINKS}") == [expected]


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("epoch: {duration_s: 1.0e+12}", "epoch.duration_s", "greater than 0 and at most 3600"),
        ("epoch: {hop_s: 1.0e+12}", "epoch.hop_s", "greater than 0 and at most 3600"),
        ("epoch: {markers: {tmax_s: .inf}}", "epoch.markers.tmax_s", "of at least -1800 and at most 1800"),
        (
            "epoch: {markers: {tmin_s: -1.0e+12, tmax_s: 1}}",
            "epoch.markers.tmin_s",
            "of at least -1800 and at most 1800",
        ),
        ("signal: {mode: window, margin_s: 1.0e+12}", "signal.margin_s", "greater than 0 and at most 3600"),
        ("signal: {mode: lookahead, lookahead_s: 1.0e+12}", "signal.lookahead_s", "greater than 0 and at most 3600"),
        ("signal: {l_freq: 1.0e-300}", "signal.l_freq", "of at least 0.001 and at most 100000"),
        ("signal: {notch_hz: 1.0e-5}", "signal.notch_hz", "of at least 10 and at most 1000 or 'auto'"),
    ],
)
def test_numbers_that_no_machine_can_take(file: Path, line: str, key: str, words: str) -> None:
    """A number beyond all sense is refused at its key, before memory is reserved or a filter designed for it."""
    (problem,) = problems(file, f"{line}\n" + SOURCE + MODEL + SINKS)
    assert f" {key}: should be a number {words}, got " in problem


def test_epoch_around_markers_may_be_given_by_its_ends(file: Path) -> None:
    """`tmin_s` and `tmax_s` make the length, which may be repeated but not contradicted."""
    ends = "markers: {tmin_s: -1, tmax_s: 4}"
    given = f"{SOURCE}epoch: {{%s}}\n{MODEL}{SINKS}"
    file.write_text(given % ends)
    assert config.load(file).epoch.duration_s == 5.0
    assert problems(file, given % f"{ends}, duration_s: 4") == [
        "2:31: epoch.markers.tmax_s: is 5 s after tmin_s, where epoch.duration_s is 4; make them agree"
    ]
    (problem,) = problems(file, given % ends + "signal: {mode: window}\n")
    assert "epoch.markers: needs signal.mode causal" in problem
