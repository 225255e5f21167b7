"""The Python face and the engine behind it, with the whole network and made-up weights."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import streamnode
from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.inference import compiled
from streamnode.inference.engine import BoundModel, Engine, find_device, load_model
from streamnode.inference.precision import Precision
from streamnode.models import catalog
from streamnode.models.luna import VARIANTS, random_state
from streamnode.montage import make_montage
from streamnode.types import Float32Array, OutputName

CH_NAMES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")


def epochs_uv(n_epochs: int, n_chans: int = len(CH_NAMES), n_times: int = 1280) -> Float32Array:
    return (20 * np.random.default_rng(1).standard_normal((n_epochs, n_chans, n_times))).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> BoundModel:
    return streamnode.load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu")


def test_encode_answers_for_each_epoch(model: BoundModel) -> None:
    """`encode` returns arrays whose first axis is the epochs, of the shapes the model promises."""
    result = model.encode(epochs_uv(3))
    shapes = {name: array.shape for name, array in result.arrays().items()}
    assert shapes == {"embedding": (3, 256), "tokens": (3, 32, 256), "attention": (3, 32, 4, 6)}
    assert result.untrained
    assert result.model == "luna-base"
    assert (model.SPEC.sfreq, model.montage.ch_names) == (256.0, CH_NAMES)


def test_one_epoch_needs_no_batch_axis(model: BoundModel) -> None:
    """A two-dimensional epoch is a batch of one."""
    epoch = epochs_uv(1)
    np.testing.assert_array_equal(model.encode(epoch[0]).embedding, model.encode(epoch).embedding)


@pytest.mark.parametrize("name", ["luna-base", "eegdino-small", "eegpt-large"])
def test_no_epochs_have_no_results(name: str) -> None:
    """Arrays of none have the shapes of others all the same; what does not fit is refused, be there epochs or not."""
    model = load_model(name, weights="random:0", ch_names=CH_NAMES, device="cpu", outputs=("embedding", "tokens"))
    n_times = round(model.SPEC.durations[0] * model.SPEC.sfreq)
    shapes = {name: array.shape for name, array in model.encode(epochs_uv(0, n_times=n_times)).arrays().items()}
    assert shapes == {name: (0, *shape) for name, shape in model.shapes.items()}
    with pytest.raises(ContractError):
        model.encode(epochs_uv(0, n_times=7))


def test_batched_equals_one_by_one(model: BoundModel) -> None:
    """No epoch of a batch touches another."""
    epochs = epochs_uv(3)
    together = model.encode(epochs).arrays()["embedding"]
    alone = np.concatenate([model.encode(epoch).arrays()["embedding"] for epoch in epochs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)


def test_same_weights_and_epoch_give_the_same_bits(model: BoundModel) -> None:
    """Encoding is deterministic, over loads too."""
    again = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu")
    np.testing.assert_array_equal(model.encode(epochs_uv(1)).embedding, again.encode(epochs_uv(1)).embedding)


def test_labels_may_be_spelled_as_devices_do(model: BoundModel) -> None:
    """`EEG Fp1`, `FP2.` and the like name the same electrodes."""
    labels = ("EEG Fp1", "FP2.", "c3..", "C4-REF", "EEG O1-LE", "o2")
    same = load_model("luna-base", weights="random:0", ch_names=labels, device="cpu")
    np.testing.assert_array_equal(same.encode(epochs_uv(1)).embedding, model.encode(epochs_uv(1)).embedding)


@pytest.mark.parametrize(("precision", "limit"), [("bfloat16", 0.01), ("int8", 0.02)])
def test_reduced_precision_is_close(model: BoundModel, precision: Precision, limit: float) -> None:
    """Narrow weights stay within 1 or 2 % of float32, and that in float32 arrays."""
    reduced = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu", precision=precision)
    a, b = (m.encode(epochs_uv(1)).arrays()["embedding"] for m in (reduced, model))
    assert a.dtype == np.float32
    assert 0 < float(np.linalg.norm(a - b) / np.linalg.norm(b)) < limit


def test_reconstruction_is_in_microvolts(tmp_path: Path) -> None:
    """Scaling an epoch scales its reconstruction, for the network itself sees z-scores."""
    save_file(random_state(VARIANTS["base"], 3), tmp_path / "luna.safetensors")
    model = load_model(
        "luna-base",
        weights=str(tmp_path / "luna.safetensors"),
        ch_names=("F7", "F8", "C3", "C4", "O1", "O2"),
        device="cpu",
        outputs=("reconstruction",),
    )
    epoch = epochs_uv(1)
    small, large = (model.encode(gain * epoch + 7).arrays()["reconstruction"] for gain in (1, 10))
    np.testing.assert_allclose(large - 7, 10 * (small - 7), rtol=1e-3, atol=1e-2)
    assert not model.encode(epoch).untrained


def test_wrong_number_of_channels_is_refused(model: BoundModel) -> None:
    """An epoch with other channels than the bound ones says what is expected."""
    with pytest.raises(ContractError, match="bound to 6 channels"):
        model.encode(epochs_uv(1, n_chans=5))


def test_partial_patch_is_refused(model: BoundModel) -> None:
    """A window that is no whole number of patches is refused, not padded."""
    with pytest.raises(ContractError, match="whole patches of 40"):
        model.encode(epochs_uv(1, n_times=1270))


def test_not_a_number_is_named(model: BoundModel) -> None:
    """NaN is refused with epoch, channel and sample."""
    epochs = epochs_uv(2)
    epochs[1, 2, 7] = np.nan
    with pytest.raises(ContractError, match="sample 7 of channel C3 in epoch 1"):
        model.encode(epochs)


def test_absent_head_is_refused() -> None:
    """Logits from weights without a classifier are refused with what there is."""
    with pytest.raises(ContractError, match="no head for logits"):
        load_model("luna-base", weights="random:0", ch_names=CH_NAMES, outputs=("logits",))


def test_unknown_model_is_suggested() -> None:
    """A misspelt model gets the right one as a suggestion."""
    with pytest.raises(ConfigError, match="luna-base"):
        load_model("luna-bse", weights="random:0", ch_names=CH_NAMES)


def test_electrode_without_a_place_is_named() -> None:
    """LUNA refuses channels it cannot place, by name."""
    with pytest.raises(ContractError, match="left ear lobe"):
        load_model("luna-base", weights="random:0", ch_names=("Fp1", "left ear lobe"))


def test_given_positions_win() -> None:
    """A position from the caller makes any channel name acceptable."""
    ch_pos = np.array([[0.0, 0.08, 0.0], [0.0, -0.08, 0.0]])
    model = load_model("luna-base", weights="random:0", ch_names=("a", "b"), ch_pos=ch_pos, device="cpu")
    assert model.encode(epochs_uv(1, n_chans=2)).arrays()["embedding"].shape == (1, 256)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """A path that is not there is a `WeightsError` naming it."""
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        load_model("luna-base", weights=str(tmp_path / "nowhere.safetensors"), ch_names=CH_NAMES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_absent_gpu_is_refused() -> None:
    """CUDA asked for and absent is an error; `auto` falls through to the CPU."""
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
        find_device("cuda")
    assert find_device("auto").type == "cpu"


def test_unknown_device_is_refused() -> None:
    """A device torch has never heard of is an error that lists what there is."""
    with pytest.raises(ConfigError, match="no device called 'gpu'"):
        find_device("gpu")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_a_device_of_no_use_is_refused(name: str) -> None:
    """One that torch knows but models do not run on gets the same answer."""
    with pytest.raises(ConfigError, match=f"models do not run on {name}: use auto, cpu, cuda"):
        find_device(name)


def test_a_precision_for_gpus_is_refused_on_a_cpu() -> None:
    """float16 on the CPU is one sentence that says what to use."""
    with pytest.raises(ConfigError, match="use bfloat16, int8 or float32 on the CPU"):
        load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu", precision="float16")


def test_import_of_the_package_does_not_import_torch() -> None:
    """`import streamnode` stays light: torch comes with the first model."""
    code = "import sys, streamnode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["luna-base", "eegdino-small", "eegpt-large"])
def test_a_model_is_loaded_without_the_compiler(name: str) -> None:
    """The compiler of torch and its algebra, a second and 75 MB, are imported by nothing at the start of a node."""
    code = (
        "import sys, streamnode;"
        f"streamnode.load_model({name!r}, weights='random:0', ch_names=('C3', 'C4', 'O1'), device='cpu');"
        "sys.exit(bool({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        ("luna-base", {}, ("embedding", "attention")),
        ("eegdino-small", {"pool": "per_channel"}, ("embedding", "tokens")),
        ("eegpt-large", {"pool": "slots"}, ("embedding", "tokens")),
    ],
)
def test_channels_left_out_are_as_if_they_were_not_there(
    name: str, options: dict[str, Any], outputs: tuple[OutputName, ...]
) -> None:
    """`run_on` gives what a smaller montage would, in the shapes of the whole one, NaN for the channels left out."""
    ch_names, rows = ("Fp1", "C3", "O1", "O2"), (0, 2, 3)
    whole = load_model(name, weights="random:0", ch_names=ch_names, outputs=outputs, **options)
    some = load_model(name, weights="random:0", ch_names=[ch_names[i] for i in rows], outputs=outputs, **options)
    x = (
        np.random.default_rng(0)
        .normal(0, 20, (2, 4, round(whole.SPEC.durations[0] * whole.SPEC.sfreq)))
        .astype(np.float32)
    )
    x[:, 1] = np.nan
    arrays = whole.run_on(rows, x)
    assert {key: array.shape[1:] for key, array in arrays.items()} == whole.shapes
    for key, array in some.run(x[:, rows]).items():
        np.testing.assert_array_equal(arrays[key][np.isfinite(arrays[key])], array.ravel())


def test_of_some_channels_all_is_numbers_or_nothing() -> None:
    """What is no number in a channel that is used marks all of its epoch, and of no other."""
    engine = Engine(catalog.load("luna-base", "random:0"), device="cpu")
    attention = torch.ones(2, 5, 4, 2)
    attention[1, 0, 0, 1] = torch.nan
    spread = engine.spread({"attention": attention}, (0, 2), 3, None)["attention"]
    assert torch.equal(spread[0].isfinite().all((0, 1)), torch.tensor([True, False, True]))
    assert spread[1].isnan().all()


# ---- What streams share ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(catalog.load("luna-base", "random:0"), device="cpu", max_batch=4)


def bind(engine: Engine, **options: Any) -> BoundModel:
    wishes: dict[str, Any] = {"outputs": ("embedding",), "duration_s": 5.0, "vocabulary": "strict"} | options
    return engine.bind(make_montage(CH_NAMES), **wishes)


def test_equal_streams_share_a_bound_model(engine: Engine) -> None:
    """Equal montages, outputs, durations and options are bound once; what differs in one of them is apart."""
    shared = bind(engine)
    assert bind(engine, duration_s=5.0) is shared
    for other in ({"outputs": ("embedding", "tokens")}, {"duration_s": 2.5}, {"vocabulary": "alias"}):
        assert bind(engine, **other) is not shared


def test_a_bound_model_goes_with_its_last_stream(engine: Engine) -> None:
    """Nothing is kept for montages that no stream has any more."""
    kept = weakref.ref(bind(engine))
    gc.collect()
    assert kept() is None


def test_large_batches_pass_in_parts(engine: Engine, model: BoundModel) -> None:
    """More epochs than one pass takes come back in one piece and in order."""
    epochs = epochs_uv(9)
    alone = [model.run(epochs[i : i + 1])["embedding"] for i in range(9)]
    np.testing.assert_allclose(bind(engine).run(epochs)["embedding"], np.concatenate(alone), rtol=0, atol=2e-5)


def test_batches_are_warmed_up_once_the_largest_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch alone, to see what a pass takes, then every number of epochs that can come together, and none again."""
    bound = bind(engine)
    monkeypatch.setattr("streamnode.inference.bound._WARM_UP_S", 1e6)
    tried = fail_beyond(engine, monkeypatch, 4, RuntimeError("too many"))
    bound.warm_up_batches(3)
    assert tried == [1, 3, 2]
    bound.warm_up_batches(2)
    assert tried == [1, 3, 2]


def test_slow_batches_are_not_warmed_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pass takes long, what its first time adds is little, and live epochs must not wait for it."""
    bound = bind(engine)
    monkeypatch.setattr("streamnode.inference.bound._WARM_UP_S", 0.0)
    tried = fail_beyond(engine, monkeypatch, 4, RuntimeError("too many"))
    bound.warm_up_batches(4)
    assert tried == [1]


@pytest.mark.parametrize(
    ("name", "precision"),
    [("luna-base", "float32"), ("luna-base", "int8"), ("eegdino-small", "bfloat16"), ("eegdino-small", "float32")],
)
def test_not_a_number_stays_in_its_row(name: str, precision: Precision) -> None:
    """NaN in one epoch of a batch makes its own results NaN, and leaves those of the others as they are without it."""
    model = load_model(name, weights="random:0", ch_names=CH_NAMES, device="cpu", precision=precision)
    n_times = round(model.SPEC.durations[0] * model.SPEC.sfreq)
    epochs = epochs_uv(3, n_times=n_times)
    whole = model.run(epochs)["embedding"]
    epochs[1, 2, 7] = np.nan
    marked = model.run(epochs)["embedding"]
    assert np.isnan(marked[1]).all()
    np.testing.assert_array_equal(marked[[0, 2]], whole[[0, 2]])


# ---- When memory is short --------------------------------------------------------------------------------------------


def fail_beyond(engine: Engine, monkeypatch: pytest.MonkeyPatch, most: int, error: RuntimeError) -> list[int]:
    """Let passes of more than so many epochs fail; the list tells what was tried."""
    tried, run = list[int](), engine.run

    def failing(x: torch.Tensor, *args: Any, **of_epochs: Any) -> Any:
        tried.append(len(x))
        if len(x) > most:
            raise error
        return run(x, *args, **of_epochs)

    monkeypatch.setattr(engine, "run", failing)
    return tried


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")],
)
def test_batches_are_halved_when_memory_is_short(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: RuntimeError
) -> None:
    """Half as many epochs pass at once from then on, which is told once; no epoch is lost."""
    bound, epochs = bind(engine), epochs_uv(6)
    expected = bound.run(epochs)["embedding"]
    monkeypatch.setattr(engine, "max_batch", 4)
    tried = fail_beyond(engine, monkeypatch, 2, error)
    np.testing.assert_allclose(bound.run(epochs)["embedding"], expected, rtol=0, atol=2e-5)
    bound.run(epochs)
    assert tried == [4, 2, 2, 2, 2, 2, 2]
    assert caplog.messages == ["4 epochs do not fit into the memory of cpu: taking 2 at once"]


def test_an_epoch_that_does_not_fit_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where halving is of no more use, one sentence says what is."""
    bound = bind(engine)
    monkeypatch.setattr(engine, "max_batch", 4)
    fail_beyond(engine, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(ConfigError, match="one epoch of luna-base does not fit into the memory of cpu: free some"):
        bound.run(epochs_uv(3))


def test_other_errors_are_not_taken_for_lack_of_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What halving cannot mend is told as it is."""
    bound = bind(engine)
    fail_beyond(engine, monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        bound.run(epochs_uv(3))


# ---- Compiled --------------------------------------------------------------------------------------------------------


def test_a_compiled_network_runs_whole_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of the length it was made for take the compiled way; others, and other channels, the usual one."""
    shapes = list[tuple[int, ...]]()

    def prepare(encoding: compiled.Encoding, _: compiled.Recipe, x: torch.Tensor, **_limits: float) -> compiled.Encode:
        def encode(x: torch.Tensor) -> dict[OutputName, torch.Tensor]:
            shapes.append(tuple(x.shape))
            return results[len(x)]

        results: dict[int, dict[OutputName, torch.Tensor]] = {n: encoding(x[[0] * n]) for n in (1, 2, 4, 8, 16)}
        return encode

    monkeypatch.setattr(compiled, "prepare", prepare)
    monkeypatch.setattr("streamnode.inference.cpu.speedup", lambda *_, **_least: 2.0)
    model = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu", compile=True)
    shapes.clear()
    model.run(epochs_uv(2))
    assert shapes == [(2, 6, 1280)]
    model.run(epochs_uv(2, n_times=640))
    model.run_on((0, 1, 2), epochs_uv(2))
    assert shapes == [(2, 6, 1280)]


@pytest.mark.parametrize("name", ["eegdino-small", "eegpt-large"])
def test_a_network_is_compiled_as_it_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the casts that passes on a GPU are made with, those of what it is given included; not in inference mode."""
    given = list[torch.Tensor]()

    def prepare(encoding: compiled.Encoding, _: compiled.Recipe, x: torch.Tensor, **_limits: float) -> None:
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()
        given.append(x)
        assert torch.isfinite(encoding(x)["embedding" if name == "eegdino-small" else "tokens"]).all()

    monkeypatch.setattr(compiled, "prepare", prepare)
    monkeypatch.setattr("streamnode.inference.engine.autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    load_model(name, weights="random:0", ch_names=CH_NAMES, device="cpu", compile=True, outputs=("embedding",))
    assert len(given) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": "int8"}, "products of int8 are not compiled: luna-base runs as it is"),
        ({}, "luna-base is compiled but runs as it is, which is 2.0 times faster"),
    ],
)
def test_what_is_not_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, options: dict[str, Any], why: str
) -> None:
    """Where compiling is not possible, or no gain, one sentence says so."""
    monkeypatch.setattr(compiled, "prepare", lambda *_, **__: pytest.fail)
    monkeypatch.setattr("streamnode.inference.cpu.speedup", lambda *_, **_least: 0.5)
    wishes: dict[str, Any] = {"weights": "random:0", "ch_names": CH_NAMES, "device": "cpu", "outputs": ("embedding",)}
    with caplog.at_level(logging.INFO, logger="streamnode"):
        model = load_model("luna-base", compile=True, **wishes, **options)
    assert why in caplog.messages
    assert np.isfinite(model.run(epochs_uv(1))["embedding"]).all()
