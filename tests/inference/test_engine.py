"""The Python face and the engine behind it, with the whole network and made-up weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import streamnode
from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.inference.engine import BoundModel, find_device, load_model
from streamnode.models.luna import VARIANTS, random_state
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


def test_bfloat16_is_close() -> None:
    """Reduced precision stays within 2 % of float32."""
    reduced = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu", precision="bfloat16")
    full = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cpu")
    a, b = (m.encode(epochs_uv(1)).arrays()["embedding"] for m in (reduced, full))
    error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    assert 0 < error < 0.02


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(model: BoundModel) -> None:
    """float32 on the GPU agrees with the CPU to 1e-4."""
    on_gpu = load_model("luna-base", weights="random:0", ch_names=CH_NAMES, device="cuda")
    a, b = (m.encode(epochs_uv(2)).arrays()["embedding"] for m in (on_gpu, model))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_import_of_the_package_does_not_import_torch() -> None:
    """`import streamnode` stays light: torch comes with the first model."""
    code = "import sys, streamnode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
