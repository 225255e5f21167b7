"""The command line as a user meets it: real processes, exit codes, one sentence and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamnode import __version__
from streamnode.models.luna import VARIANTS, random_state
from streamnode.montage import make_montage
from streamnode.sinks.lsl import EegOutlet
from streamnode.types import StreamInfo
from tests.brokers import free_port
from tests.hub_server import serve

CLI = [sys.executable, "-m", "streamnode.cli"]
YAML = """\
node: {{name: cli-test, http: {http}}}
source: {{kind: lsl, stype: "{stype}", timeout_s: 2}}
model: {{kind: luna, weights: "{weights}", outputs: [embedding]}}
sinks: [{{kind: {sink}}}]
"""


def run(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **(env or {})},
    )


def write(folder: Path, **values: object) -> Path:
    defaults = {
        "http": "null",
        "stype": f"cli-{folder.name}",
        "weights": "random:0",
        "sink": f"lsl, name: out-{folder.name}",
    }
    path = folder / "node.yaml"
    path.write_text(YAML.format(**{**defaults, **values}))
    return path


def error_of(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of error, once exit code and absence of a traceback are as promised."""
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == code, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@contextmanager
def outlets(
    folder: Path, *names: str, sfreq: float = 256.0, ch_names: tuple[str, ...] = ("Fp1", "Fp2")
) -> Iterator[None]:
    with ExitStack() as stack:
        for name in names:
            montage = make_montage(ch_names)
            info = StreamInfo(name, f"{name}-{folder.name}", f"cli-{folder.name}", sfreq, montage)
            stack.enter_context(EegOutlet(info))
        yield


def test_no_stream_says_what_was_looked_for_and_what_is_in_sight(tmp_path: Path) -> None:
    """Without a match the node ends after `timeout_s` with the predicate and the streams there are."""
    with outlets(tmp_path, "bystander"):
        line = error_of(run("run", write(tmp_path, stype="Nothing")), 4)
    assert "no LSL stream matched type='Nothing' within 2 s" in line
    assert "name='bystander'" in line


def test_two_streams_are_told_apart_by_the_user(tmp_path: Path) -> None:
    """Two matches are an error that names both and the keys that tell them apart."""
    with outlets(tmp_path, "left", "right"):
        line = error_of(run("run", write(tmp_path)), 2)
    assert "2 LSL streams match" in line
    assert "name='left'" in line
    assert "name='right'" in line
    assert "source_id" in line


def test_channel_that_cannot_be_placed(tmp_path: Path) -> None:
    """LUNA needs to know where a channel is."""
    with outlets(tmp_path, "odd", ch_names=("Fp1", "chin")):
        assert "chin" in error_of(run("run", write(tmp_path)), 3)


@pytest.mark.parametrize(("sfreq", "words"), [(0.0, "no regular sampling rate"), (100.0, "signal.h_freq")])
def test_rate_that_does_not_carry_the_band(tmp_path: Path, sfreq: float, words: str) -> None:
    """Irregular and slow streams are refused with what to do."""
    with outlets(tmp_path, "slow", sfreq=sfreq):
        assert words in error_of(run("run", write(tmp_path)), 3)


def test_truncated_weights(tmp_path: Path) -> None:
    """Half a file is named as such."""
    whole = tmp_path / "whole.safetensors"
    save_file(random_state(VARIANTS["base"], 0), whole)
    (tmp_path / "half.safetensors").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "half.safetensors" in error_of(run("run", write(tmp_path, weights="half.safetensors")), 5)


def test_weights_of_something_else(tmp_path: Path) -> None:
    """The weights of another network are refused."""
    save_file({"layer.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    assert "not the weights of a LUNA" in error_of(run("run", write(tmp_path, weights="other.safetensors")), 5)


def test_hub_out_of_reach_says_where_to_put_the_file(tmp_path: Path) -> None:
    """Without hub and cache the error tells where the file could be put by hand."""
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HOME": str(tmp_path / "hf")}
    line = error_of(run("run", write(tmp_path, weights="hub"), env=env), 5)
    assert "LUNA_base.safetensors" in line
    assert str(tmp_path / "hf") in line


def test_broker_that_refuses(tmp_path: Path) -> None:
    """A broker nobody runs is named with its address."""
    port = free_port()
    path = write(tmp_path, sink=f"mqtt, url: 'mqtt://127.0.0.1:{port}', topic: t, timeout_s: 1")
    assert f"mqtt broker at 127.0.0.1:{port}" in error_of(run("run", path), 6)


def test_port_that_is_taken(tmp_path: Path) -> None:
    """A taken HTTP port is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in error_of(run("run", write(tmp_path, http=address)), 2)


def test_misspelt_key_has_line_and_suggestion(tmp_path: Path) -> None:
    """A YAML typo is answered with its place and the likely key."""
    path = tmp_path / "typo.yaml"
    path.write_text(write(tmp_path).read_text().replace("timeout_s", "timeot_s"))
    line = error_of(run("run", path), 2)
    assert "typo.yaml:2:" in line
    assert "did you mean 'timeout_s'?" in line


def test_check_goes_through_all_files(tmp_path: Path) -> None:
    """`check` says ok of what is right, names what is wrong, and exits with the first failure's code."""
    good = write(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text().replace("kind: luna", "kind: lunar"))
    result = run("check", bad, good)
    assert result.returncode == 2
    assert f"{good}: ok" in result.stdout
    assert "bad.yaml:3:" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_tries_the_model_on_the_declared_channels(tmp_path: Path) -> None:
    """Channels that the file itself names are checked against the model."""
    path = write(tmp_path)
    path.write_text(path.read_text() + "signal: {picks: [Fp1, chin]}\n")
    result = run("check", path)
    assert result.returncode == 3
    assert "chin" in result.stderr


def test_check_knows_the_electrodes_that_zuna_can_add(tmp_path: Path) -> None:
    """A channel to add that is no electrode is refused with its line, in the words of the model itself."""
    path = write(tmp_path)
    path.write_text(path.read_text().replace("kind: luna", "kind: zuna, add: [Cz, Qz]"))
    result = run("check", path)
    assert result.returncode == 2
    assert f"{path}:3:" in result.stderr
    assert "model.add: the 10-05 system has no Qz to add: use its names, such as Cz or FCz" in result.stderr


def test_check_misses_weights_that_are_not_on_disk(tmp_path: Path) -> None:
    """Published weights that have not been pulled fail the check, with the command that pulls them."""
    result = run("check", write(tmp_path, weights="hub"), env={"HF_HOME": str(tmp_path / "hf")})
    assert result.returncode == 5
    assert "streamnode weights pull luna-base" in result.stderr


def test_pulled_weights_are_found_by_models(tmp_path: Path) -> None:
    """`weights pull` downloads over the hub's protocol, and `models` then shows the file."""
    save_file(random_state(VARIANTS["base"], 0), tmp_path / "luna.safetensors")
    with serve() as hub:
        hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", (tmp_path / "luna.safetensors").read_bytes())
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        pulled = run("weights", "pull", "luna-base", env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert "sha256" in pulled.stdout
    assert hub.url not in pulled.stderr  # nor any address, for those of downloads may be signed
    rows = json.loads(run("models", "--json", env=env).stdout)
    on_disk = {row["name"]: row["path"] for row in rows}
    assert str(on_disk["luna-base"]).startswith(str(tmp_path / "hf"))
    assert on_disk["luna-large"] is None


def test_streams_lists_what_is_in_sight(tmp_path: Path) -> None:
    """`streams --json` shows a stream with its type, rate and channels."""
    with outlets(tmp_path, "visible"):
        found = json.loads(run("streams", "--json").stdout)
    (seen,) = [stream for stream in found if stream["name"] == "visible"]
    assert (seen["sfreq"], seen["n_chans"], seen["stype"]) == (256.0, 2, f"cli-{tmp_path.name}")


def test_interrupt_ends_the_node_cleanly(tmp_path: Path) -> None:
    """Ctrl-C ends a running node with exit code 0 and without a traceback."""
    with subprocess.Popen([*CLI, "run", write(tmp_path)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "looking for an LSL stream" in line:
                process.send_signal(signal.SIGINT)
        process.wait(20)
    assert process.returncode == 0, said
    assert any("stopped" in line for line in said)
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_node_whose_download_hangs(tmp_path: Path, number: signal.Signals) -> None:
    """A node that is still waiting for weights ends as cleanly as any: exit code 0, and nothing is waited for."""
    with serve() as hub:
        hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", b"not looked at")
        hub.answers.clear()
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [*CLI, "run", str(write(tmp_path, weights="hub"))]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
            assert hub.asked.wait(40)
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
    assert (process.returncode, "stopped" in said, "Traceback" in said) == (0, True, False), said


def test_version_needs_no_verb() -> None:
    """`streamnode --version` prints it and nothing else."""
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("module", ["numpy", "typer", "streamnode.cli.live"])
def test_interrupt_while_the_command_starts_is_quiet(module: str) -> None:
    """Ctrl-C while Python still imports ends the command without a word, as the shell expects it."""
    script = f"""
        import os, signal, sys
        class Interrupt:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupt())
        from streamnode.cli import main
        main()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), "models"], capture_output=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [["models", "--json"], ["--version"]])
def test_full_disk_is_one_sentence(arguments: list[str]) -> None:
    """What cannot be written for want of room is told as any other error."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*CLI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: there is no room for what was to be written")
    assert ended.stderr.count("\n") == 1


def test_unknown_recording_is_one_sentence(tmp_path: Path) -> None:
    """`play` of a file that is not there says so."""
    assert "nothing.edf is not a file" in error_of(run("play", tmp_path / "nothing.edf"), 2)
