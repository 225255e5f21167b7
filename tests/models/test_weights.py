import errno
import hashlib
import io
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from streamnode.errors import ConfigError, WeightsError
from streamnode.models.hub import HubFile, cached_path
from streamnode.models.luna import LUNA, LunaConfig, random_state, rename_keys
from streamnode.models.weights import (
    fetch,
    is_pickle,
    load_strict,
    map_safetensors,
    read_metadata,
    read_safetensors,
    resolve,
    sound,
    stored,
)
from tests.hub_server import Hub, serve, use_hub

FILE = HubFile("lab/model", "weights.safetensors")
CONTENTS = save({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)})
SHA256 = hashlib.sha256(CONTENTS).hexdigest()
TINY = LunaConfig(embed_dim=16, n_queries=2, depth=1, n_heads=2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    with serve() as hub:
        use_hub(monkeypatch, hub.url, cache)
        yield hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> str:
    with serve() as hub:
        url = hub.url
    use_hub(monkeypatch, url, cache)
    return url


def refusal(attempt: Callable[[], object], error: type[Exception] = WeightsError) -> str:
    """The one sentence by which an attempt is refused."""
    with pytest.raises(error) as caught:
        attempt()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# ---- The hub ---------------------------------------------------------------------------------------------------------


def test_a_download_knows_where_it_came_from(hub: Hub) -> None:
    """A fetched file has the published bytes, and its info names repository, file, commit and digest."""
    commit = hub.publish(FILE.repo, FILE.filename, CONTENTS)
    resolved = fetch(FILE)
    assert resolved.path is not None
    assert resolved.path.read_bytes() == CONTENTS
    assert resolved.path == cached_path(FILE)
    assert resolved.info.source == "hub:lab/model/weights.safetensors"
    assert (resolved.info.revision, resolved.info.sha256) == (commit, SHA256)
    assert not resolved.info.untrained


def test_a_file_in_a_folder_of_the_repository_keeps_its_commit(hub: Hub) -> None:
    """The commit is found for a file that does not lie at the root of its repository, too."""
    commit = hub.publish("lab/model", "base/weights.safetensors", CONTENTS)
    assert fetch(HubFile("lab/model", "base/weights.safetensors")).info.revision == commit


def test_a_broken_download_is_resumed(hub: Hub) -> None:
    """After a cut connection only the rest is asked for, not the file once more."""
    contents = bytes(range(256)) * 100_000
    hub.publish(FILE.repo, FILE.filename, contents)
    hub.cut_after = 21_000_000
    resolved = fetch(FILE)
    assert resolved.info.sha256 == hashlib.sha256(contents).hexdigest()
    first, second = hub.downloads
    kept = int(second.range.removeprefix("bytes=").removesuffix("-"))
    assert first.range == ""
    assert kept > 0
    assert second.n_sent == len(contents) - kept


def test_what_is_cached_is_not_downloaded_again(hub: Hub) -> None:
    """A second fetch asks whether the file has changed and transfers nothing."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    assert fetch(FILE) == fetch(FILE)
    assert len(hub.downloads) == 1


def test_what_is_stored_is_found_without_asking(hub: Hub) -> None:
    """A file in the cache is described as when it was fetched, its digest checked, and nobody is asked about it."""
    assert stored(FILE) is None
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    fetched = fetch(FILE)
    hub.requests.clear()
    assert stored(FILE) == fetched
    assert "is not used" in refusal(lambda: stored(FILE, sha256="0" * 64))
    assert hub.requests == []


def test_a_branch_is_followed(hub: Hub) -> None:
    """When the branch has moved on, the new file is fetched, and the old commit stays on the machine."""
    old = hub.publish(FILE.repo, FILE.filename, b"old")
    fetch(FILE)
    new = hub.publish(FILE.repo, FILE.filename, CONTENTS)
    assert fetch(FILE).info.revision == new
    assert fetch(FILE, revision=old).info.sha256 == hashlib.sha256(b"old").hexdigest()


def test_a_cached_commit_needs_no_network(hub: Hub) -> None:
    """A commit never changes, so once it is cached the hub is not even asked."""
    commit = hub.publish(FILE.repo, FILE.filename, CONTENTS)
    fetch(FILE, revision=commit)
    hub.requests.clear()
    assert fetch(FILE, revision=commit).info.revision == commit
    assert hub.requests == []


def test_the_cache_serves_when_the_hub_is_gone(
    monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node starts without a network when its weights are cached, and says so in a warning."""
    with serve() as hub:
        use_hub(monkeypatch, hub.url, cache)
        hub.publish(FILE.repo, FILE.filename, CONTENTS)
        online = fetch(FILE)
    assert caplog.records == []
    assert fetch(FILE) == online
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "Connection refused" in warning.getMessage()


def test_the_cache_serves_when_the_hub_is_ill(hub: Hub) -> None:
    """An answer of 503 is no reason not to start from the cache."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    online = fetch(FILE)
    hub.down = True
    assert fetch(FILE) == online


def test_offline_mode_asks_nobody(hub: Hub) -> None:
    """Under HF_HUB_OFFLINE a cached file is used, a missing one is refused, and no request leaves the process."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    online = fetch(FILE)
    hub.requests.clear()
    program = (
        "import json; from streamnode.errors import WeightsError\n"
        "from streamnode.models.hub import HubFile; from streamnode.models.weights import fetch\n"
        "try: fetch(HubFile('lab/model', 'other'))\n"
        "except WeightsError as error: sentence = str(error)\n"
        "print(json.dumps([str(fetch(HubFile('lab/model', 'weights.safetensors')).path), sentence]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    path, sentence = json.loads(done.stdout)
    assert path == str(online.path)
    assert "HF_HUB_OFFLINE is set" in sentence
    assert hub.requests == []


def test_without_hub_and_cache_the_error_says_where_to_put_the_file(no_hub: str, cache: Path) -> None:
    """The place that the refusal names is one where a file put by hand is found."""
    place = cache / "models--lab--model" / "snapshots" / "main" / "weights.safetensors"
    sentence = refusal(lambda: fetch(FILE))
    assert no_hub in sentence
    assert str(place) in sentence
    assert "model.weights" in sentence
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENTS)
    resolved = fetch(FILE)
    assert resolved.path == place
    assert (resolved.info.revision, resolved.info.sha256) == ("", SHA256)


@pytest.mark.parametrize(
    ("file", "revision", "words"),
    [
        (FILE, "v9", ["no revision 'v9'", "model.revision"]),
        (HubFile("lab/model", "nothing.bin"), "main", ["no nothing.bin at revision 'main'"]),
        (HubFile("lab/nowhere", "x"), "main", ["lab/nowhere does not exist or is private", "HF_TOKEN"]),
        (HubFile("lab/gated", "x"), "main", ["lab/gated is gated", "accept its terms", "HF_TOKEN"]),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_change(hub: Hub, file: HubFile, revision: str, words: list[str]) -> None:
    """Unknown revision, file and repository and a gated repository are told apart, each with its remedy."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    hub.publish("lab/gated", "x", CONTENTS)
    hub.gated.add("lab/gated")
    sentence = refusal(lambda: fetch(file, revision=revision))
    assert all(word in sentence for word in words), sentence


def test_an_ill_hub_is_named_with_its_status(hub: Hub) -> None:
    """With nothing cached, a 503 is an unreachable hub."""
    hub.down = True
    assert "cannot be reached (HTTP 503)" in refusal(lambda: fetch(FILE))


def test_a_failing_xet_download_is_one_sentence(hub: Hub) -> None:
    """The hub's own protocol for large files fails in its own way; the refusal tells how to do without it."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    hub.xet = True
    sentence = refusal(lambda: fetch(FILE))
    assert "401" in sentence
    assert "HF_HUB_DISABLE_XET=1" in sentence


@pytest.mark.parametrize("endpoint", ["hub.local", "http://[::", "http://127.0.0.1:1"])
def test_a_wrong_endpoint_is_shown(monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str) -> None:
    """A malformed or dead HF_ENDPOINT appears in the refusal."""
    use_hub(monkeypatch, endpoint, cache)
    assert endpoint in refusal(lambda: fetch(FILE))


def test_a_token_opens_gated_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_TOKEN is sent to the hub."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    hub.gated.add(FILE.repo)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch(FILE).info.sha256 == SHA256


def test_a_token_is_never_shown(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A refused token is called refused, and appears in no message, log line or output."""
    caplog.set_level(logging.DEBUG)
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    sentence = refusal(lambda: fetch(FILE))
    assert {request.authorization for request in hub.requests} == {"Bearer hf_expired"}
    assert "refuses your token (HTTP 401)" in sentence
    assert "hf_expired" not in sentence + caplog.text + "".join(capfd.readouterr())


def test_without_a_token_none_is_said_to_be_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where access is refused and nobody gave a token, the remedies are to give one, or to look what is in between."""
    hub.closed = True
    sentence = refusal(lambda: fetch(FILE))
    assert "refuses access (HTTP 403): set HF_TOKEN" in sentence
    assert "proxy" in sentence
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "refuses your token (HTTP 403): renew HF_TOKEN" in refusal(lambda: fetch(FILE))


@pytest.mark.parametrize("password", ["s3cret", "s3cret@home", "s3cret:"])
def test_a_password_is_never_shown(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    """Of an HF_ENDPOINT with user and password, messages and warnings name the host alone."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    fetch(FILE)
    use_hub(monkeypatch, hub.url.replace("://", f"://bob:{password}@"), cache)
    sentences = [refusal(lambda: fetch(HubFile("lab/other", "x")))]
    hub.down = True
    sentences.append(refusal(lambda: fetch(HubFile("lab/other", "x"))))
    assert all(hub.url in sentence for sentence in sentences)
    fetch(FILE)
    assert f"cannot ask {hub.url} about" in caplog.text
    assert not any(word in " ".join(sentences) + caplog.text for word in ("s3cret", "bob"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError(f"Data processing error: I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"),
    ],
)
def test_a_full_disk_does_not_bring_back_the_older_file(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception
) -> None:
    """When the hub's new file cannot be saved for want of room, the one before it is not used in its place."""
    hub.publish(FILE.repo, FILE.filename, b"old")
    fetch(FILE)
    hub.publish(FILE.repo, FILE.filename, CONTENTS)

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("streamnode.models.hub.hf_hub_download", full)
    sentence = refusal(lambda: fetch(FILE))
    assert f"{FILE.filename} cannot be saved in {cache}" in sentence
    assert "set HF_HUB_CACHE to" in sentence


def test_a_file_larger_than_the_disk_is_not_begun(hub: Hub, cache: Path) -> None:
    """Room is checked against the announced size before anything is downloaded."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    hub.claimed_size = 10**18
    sentence = refusal(lambda: fetch(FILE))
    assert "needs 1000000000000 MB" in sentence
    assert str(cache) in sentence
    assert "HF_HUB_CACHE" in sentence
    assert hub.downloads == []


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, cache: Path) -> None:
    """What the operating system says of the cache folder reaches the user."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    cache.write_text("a file where a folder should be")
    assert f"cannot be saved in {cache}" in refusal(lambda: fetch(FILE))


@pytest.mark.parametrize("written", [SHA256, SHA256.upper()])
def test_the_right_digest_passes(hub: Hub, written: str) -> None:
    """A digest may be written in either case."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    assert fetch(FILE, sha256=written).info.sha256 == SHA256


def test_a_download_with_another_digest_is_not_used(hub: Hub) -> None:
    """The refusal names the file, what was expected and what was found."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    sentence = refusal(lambda: fetch(FILE, sha256="0" * 64))
    assert all(word in sentence for word in (SHA256, "0" * 64, "is not used", "model.sha256"))


def test_a_damaged_cache_is_found_and_heals(hub: Hub) -> None:
    """Even without a configured digest a flipped byte is noticed, and deleting the named file mends it."""
    hub.publish(FILE.repo, FILE.filename, CONTENTS)
    path = fetch(FILE).path
    assert path is not None
    path.resolve().write_bytes(CONTENTS[:-1] + b"!")
    sentence = refusal(lambda: fetch(FILE))
    assert sentence.startswith(str(path.resolve()))
    path.resolve().unlink()
    assert fetch(FILE).info.sha256 == SHA256


# ---- Paths and seeds -------------------------------------------------------------------------------------------------


def test_hub_is_the_published_file(hub: Hub) -> None:
    """The word `hub` stands for the file of the catalog, at the asked revision."""
    commit = hub.publish(FILE.repo, FILE.filename, CONTENTS, revision="v2")
    assert resolve("hub", FILE, revision="v2", sha256=SHA256).info.revision == commit


def test_a_path_is_used_as_it_is(tmp_path: Path, no_hub: str) -> None:
    """A file on disk needs no hub; its digest is recorded and enforced."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(CONTENTS)
    resolved = resolve(str(path), FILE, sha256=SHA256)
    assert (resolved.path, resolved.info.source, resolved.info.sha256) == (path, str(path), SHA256)
    assert resolved.info.revision == ""
    assert "is not used" in refusal(lambda: resolve(str(path), FILE, sha256="0" * 64))


def test_a_path_that_nobody_can_follow_is_named(tmp_path: Path) -> None:
    """What the system will not even look for, such as a name beyond its limits, is refused in a sentence, too."""
    path = tmp_path / ("x" * 300)
    assert str(path) in refusal(lambda: resolve(str(path), FILE))


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """A path that is no file is refused with what model.weights may be."""
    sentence = refusal(lambda: resolve(str(tmp_path / name), FILE))
    assert str(tmp_path / name) in sentence
    assert "model.weights to hub" in sentence


def test_a_seed_needs_no_file(no_hub: str) -> None:
    """Random weights are marked untrained and carry their seed."""
    resolved = resolve("random:17", FILE)
    assert (resolved.path, resolved.seed) == (None, 17)
    assert (resolved.info.source, resolved.info.untrained) == ("random:17", True)


@pytest.mark.parametrize("weights", ["random", "random:", "random:-1", "random:x", "random:1.5", "random:" + "9" * 19])
def test_a_seed_is_a_whole_number(weights: str) -> None:
    """Anything else after `random` is refused with an example."""
    assert "such as random:0" in refusal(lambda: resolve(weights, FILE))


def test_random_weights_have_no_digest() -> None:
    """A digest beside a seed is a mistake in the configuration, not in the weights."""
    assert "model.sha256" in refusal(lambda: resolve("random:0", FILE, sha256=SHA256), ConfigError)


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """Every floating dtype becomes float32; counters stay whole numbers."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.tensor([0.5, -2.0], dtype=dtype), "n": torch.tensor(3)}, path)
    state = read_safetensors(path)
    assert torch.equal(state["w"], torch.tensor([0.5, -2.0]))
    assert (state["w"].dtype, state["n"].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("piece", [1, 4096, 5000, 1 << 20])
def test_a_file_is_the_same_by_whatever_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Every tensor is there, to the bit, where it fills a piece, crosses into the next, or is empty."""
    path = tmp_path / "x.safetensors"
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool)
    sizes = ((0, 3), (), (7,), (1024,), (33, 129), (2, 0), (5000,))
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{dtype} {size}": (100 * torch.randn(size, generator=generator)).to(dtype)
        for dtype in dtypes
        for size in sizes
    }
    save_file(state, path)
    monkeypatch.setattr("streamnode.models.weights._PIECE", piece)
    monkeypatch.setattr("streamnode.models.weights._SMALL", 100)
    read, expected = map_safetensors(path), load_file(path)
    assert read.keys() == expected.keys() == state.keys()
    assert all(read[key].dtype == state[key].dtype and torch.equal(read[key], state[key]) for key in state)


def test_many_tensors_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may open a thousand files: weights take up one for each piece of them, and small tensors none."""
    path = tmp_path / "x.safetensors"
    save_file({f"{i}": torch.full((1000,), float(i)) for i in range(2000)}, path)
    before = psutil.Process().num_fds()
    for small, n_open in ((1 << 20, 0), (0, 1)):
        monkeypatch.setattr("streamnode.models.weights._SMALL", small)
        state = read_safetensors(path)
        assert psutil.Process().num_fds() == before + n_open
        assert state["1999"].sum() == 1999000
        del state
    assert psutil.Process().num_fds() == before


def test_numbers_of_an_unknown_type_are_refused(tmp_path: Path) -> None:
    """Complex weights are of no model here, and the sentence says what to give instead."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2, dtype=torch.complex64)}, path)
    assert refusal(lambda: read_safetensors(path)).endswith("of type C64: give a checkpoint in float32 or bfloat16")


@pytest.mark.parametrize("n_bytes", [0, 4, 40, len(CONTENTS) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, n_bytes: int) -> None:
    """A file cut anywhere is called incomplete."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(CONTENTS[:n_bytes])
    sentence = refusal(lambda: read_safetensors(path))
    assert sentence.startswith(f"{path} is not a complete safetensors file")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    """Text, such as the page of a login portal saved in place of the weights, is no safetensors file."""
    path = tmp_path / "x.safetensors"
    path.write_text("<html>please log in</html>" * 100)
    assert "is not a complete safetensors file" in refusal(lambda: read_safetensors(path))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    """A valid file that holds nothing is no checkpoint."""
    path = tmp_path / "x.safetensors"
    save_file({}, path)
    assert "holds no tensors" in refusal(lambda: read_safetensors(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_opened(tmp_path: Path, *, zipped: bool) -> None:
    """Both formats of torch.save are recognised and must be converted, whatever the file is called."""
    path = tmp_path / "x.safetensors"
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer, _use_new_zipfile_serialization=zipped)
    path.write_bytes(buffer.getvalue())
    sentence = refusal(lambda: read_safetensors(path))
    assert "is a pickle" in sentence
    assert f"streamnode weights convert {path}" in sentence


def test_a_length_of_the_header_does_not_make_a_pickle(tmp_path: Path) -> None:
    """A safetensors file whose first bytes are those of a pickle, by the length of its header, is still read."""
    path = tmp_path / "x.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(640)
    path.write_bytes(len(header).to_bytes(8, "little") + header + torch.tensor([2.5]).numpy().tobytes())
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert not is_pickle(path)
    assert torch.equal(read_safetensors(path)["w"], torch.tensor([2.5]))


def test_only_what_is_looked_at_is_read(tmp_path: Path) -> None:
    """A mapped file keeps its precision, and its NaN are nobody's business until it is asked for sound weights."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.full((2,), math.nan, dtype=torch.float16)}, path, {"model": "luna"})
    assert map_safetensors(path)["w"].dtype == torch.float16
    assert read_metadata(path) == {"model": "luna"}
    assert "NaN" in refusal(lambda: sound(map_safetensors(path), path))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    """One NaN or infinity anywhere is found, and the first tensors that have one are named."""
    path = tmp_path / "x.safetensors"
    state = {f"layer{i}": torch.ones(1000) for i in range(8)}
    for i in range(1, 7):
        state[f"layer{i}"][500] = value
    save_file(state, path)
    sentence = refusal(lambda: read_safetensors(path))
    assert "layer1, layer2, layer3, layer4 and 2 more" in sentence


def test_large_weights_are_still_numbers(tmp_path: Path) -> None:
    """A tensor whose sum overflows is accepted as long as each of its values is finite."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.full((4,), 3e38)}, path)
    assert torch.equal(read_safetensors(path)["w"], torch.full((4,), 3e38))


# ---- Networks --------------------------------------------------------------------------------------------------------


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def test_a_state_becomes_the_parameters_without_a_copy() -> None:
    """A network built on the meta device takes over the very memory of the tensors."""
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    module = on_meta(lambda: nn.Linear(3, 2))
    load_strict(module, state, path="x")
    assert {key: tensor.data_ptr() for key, tensor in module.state_dict().items()} == {
        key: tensor.data_ptr() for key, tensor in state.items()
    }
    assert torch.equal(module(torch.ones(3)), torch.full((2,), 3.0))


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_luna_survives_the_disk(tmp_path: Path, prefix: str, dtype: torch.dtype) -> None:
    """Every tensor of a LUNA comes back under its name, from a trainer's prefix and from bfloat16 as well."""
    path = tmp_path / "luna.safetensors"
    state = {key: tensor.to(dtype) for key, tensor in random_state(TINY, seed=1).items()}
    save_file({prefix + key: tensor for key, tensor in state.items()}, path)
    read = rename_keys(read_safetensors(path))
    assert LunaConfig.from_state(read) == TINY
    module = on_meta(lambda: LUNA(TINY))
    load_strict(module, read, path=path)
    loaded = module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in state.items())


def test_every_difference_is_named() -> None:
    """Missing, unexpected and mis-shaped tensors appear together, with the path and both shapes."""
    state = random_state(TINY, seed=0)
    del state["norm.weight"]
    state["extra.weight"] = torch.ones(1)
    state["mask_token"] = torch.ones(1, 1, 8)
    sentence = refusal(lambda: load_strict(on_meta(lambda: LUNA(TINY)), state, path="luna.safetensors"))
    assert sentence.startswith("luna.safetensors does not fit LUNA: ")
    assert "1 missing: norm.weight" in sentence
    assert "1 unexpected: extra.weight" in sentence
    assert "1 of another shape: mask_token (1, 1, 8) instead of (1, 1, 16)" in sentence


def test_quantised_weights_are_not_taken_for_numbers() -> None:
    """A tensor of whole numbers where floating-point ones belong is named, with what it is."""
    state = {"weight": torch.ones(2, 3, dtype=torch.int8), "bias": torch.zeros(2)}
    assert "1 not floating-point: weight torch.int8" in refusal(lambda: load_strict(nn.Linear(3, 2), state, path="x"))


def test_another_model_is_recognised() -> None:
    """When most tensors are foreign the refusal says so, and shows a few of them with their number."""
    state = {f"foreign{i}": torch.ones(1) for i in range(20)}
    n_tensors = len(random_state(TINY, seed=0))
    sentence = refusal(lambda: load_strict(on_meta(lambda: LUNA(TINY)), state, path="other.safetensors"))
    assert "looks like another model" in sentence
    assert f"{n_tensors} missing" in sentence
    assert "20 unexpected: foreign0, foreign1, foreign2, foreign3 and 16 more" in sentence


def test_a_refused_state_leaves_the_network_alone() -> None:
    """No tensor is loaded unless all fit."""
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    refusal(lambda: load_strict(module, {"weight": torch.ones(2, 3)}, path="x"))
    assert torch.equal(module.weight, before)


def test_every_key_of_a_damaged_checkpoint_is_named() -> None:
    """As long as it is this model's file, no missing key hides behind a number."""
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    state = module.state_dict()
    lost = [key for key in state if key.endswith("bias")][:7]
    with pytest.raises(WeightsError) as caught:
        load_strict(module, {key: tensor for key, tensor in state.items() if key not in lost}, path="x")
    assert all(key in str(caught.value) for key in lost)
