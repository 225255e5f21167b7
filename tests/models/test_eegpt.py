"""Promises of `streamnode.models.eegpt`.

The golden values were computed with the original code (github.com/BINE022/EEGPT, a0e0a8f) and braindecode 1.8.1 in
float64, on weights and signals that a hash makes out of names and indices.
"""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models import eegpt
from streamnode.models.eegpt import PROJECTED, SPEC, VARIANTS, VOCABULARY, Eegpt, EegptConfig
from streamnode.models.weights import load_strict
from streamnode.montage import make_montage
from streamnode.signal.chain import build_chain
from streamnode.types import Montage, OutputName, StreamInfo
from tests.models.fill import filled, uniform

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "eegpt.json").read_text("utf-8"))
PLAIN = frozenset({"summary_token", "chan_embed.weight"})
BOUNDED = ("chan_conv.weight", "linear_probe1.weight", "linear_probe2.weight")
TINY = EegptConfig(embed_dim=64, n_summary=4, depth=3, n_heads=4)
CONFIGS = {
    "tiny, stride 64": replace(TINY, patch_stride=64),
    "tiny, stride 32": TINY,
    "large, stride 64": replace(VARIANTS["large"], patch_stride=64),
    "large, stride 32": VARIANTS["large"],
    "projection and probe": replace(TINY, patch_stride=64, n_proj_in=22, n_classes=4, probe_patches=16),
}
FIVE = make_montage(["Fz", "C3", "Cz", "C4", "Pz"])
NINETEEN = make_montage(PROJECTED)
TWENTY_TWO = Montage(tuple(f"E{number}" for number in range(22)), np.full((22, 3), np.nan))
TOKENS: tuple[OutputName, ...] = ("tokens",)
LOGITS: tuple[OutputName, ...] = ("logits",)


# ---- Hashed weights and signals --------------------------------------------------------------------------------------


@lru_cache
def hashed(config: EegptConfig) -> dict[str, Tensor]:
    """A float64 state; the rows of heads are made too long, so that their bounds act."""
    state = filled({key: tuple(shape) for key, shape in eegpt.manifest(config).items()}, plain=PLAIN)
    return {key: 3 * tensor if key in BOUNDED else tensor for key, tensor in state.items()}


def load(state: dict[str, Tensor], **sizes: Any) -> Eegpt:
    """Load a state as the loader does: sizes read off it, no tensor missing, none left over."""
    state = eegpt.rename_keys(state)
    with torch.device("meta"):
        model = Eegpt(EegptConfig.from_state(state, **sizes))
    load_strict(model, state, path="a state")
    return model.eval().requires_grad_(requires_grad=False)


def network(config: EegptConfig) -> Eegpt:
    """A network with hashed weights in float64, which networks of another stride share."""
    return load(hashed(replace(config, patch_stride=32)), patch_stride=config.patch_stride)


def signal(*shape: int) -> Tensor:
    """Hashed noise of standard deviation 0.29."""
    return torch.from_numpy(uniform("input", shape))


def golden_input(case: str) -> tuple[Tensor, Montage]:
    """Signal and montage of a golden case."""
    if case == "projection and probe":
        return signal(2, 22, 1024), TWENTY_TWO
    if "tiny" in case:
        return signal(2, 5, 300), FIVE
    return signal(1, 19, 1280)[..., : 256 if "32" in case else 1280], NINETEEN


def run(
    model: Eegpt, x: Tensor, montage: Montage = FIVE, outputs: tuple[OutputName, ...] = TOKENS, **options: Any
) -> dict[OutputName, Tensor]:
    """Bind and run once, on a signal in the units of training."""
    with torch.inference_mode():
        return model.encode(x, model.bind(montage, outputs, **{"scale": 1.0, **options}), outputs)


def tokens(model: Eegpt, x: Tensor, montage: Montage = FIVE, **options: Any) -> Tensor:
    """`(B, N, S, D)` summary tokens."""
    config = model.config
    return run(model, x, montage, **options)["tokens"].reshape(len(x), -1, config.n_summary, config.embed_dim)


def run_with_intermediates(model: Eegpt, x: Tensor, montage: Montage) -> dict[str, Tensor]:
    """All outputs, and what the layers on the way yield for all tokens."""
    config = model.config
    outputs = tuple(name for name in model.available_outputs if name != "embedding")
    seen: dict[str, Tensor] = {str(name): found for name, found in run(model, x, montage, outputs, tail="pad").items()}
    binding = model.bind(montage, scale=1.0)
    patches = eegpt.cut_patches(model.prepare(x, binding), config.patch, config.patch_stride, "pad").flatten(0, 1)
    seen["channels"] = model.patch_embed(patches, binding.constant)
    z = torch.cat((seen["channels"], model.summary_token.expand(len(patches), -1, -1)), dim=1)
    for i, block in enumerate(model.blocks):
        seen[f"block {i}"] = z = block(z, n_out=z.shape[1])
    if "logits" in outputs:
        seen["hidden"] = model.linear_probe1(seen["tokens"].reshape(len(x), config.probe_patches, -1))
    return seen


# ---- Golden values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("input", [-0.39372377, -0.42936975, 0.19462207, -0.42812338, -0.44862914]),
        ("summary_token", [-0.37103816, -0.44310939, 0.07646159]),
        ("chan_embed.weight", [-0.02680578, 0.18080645, -0.11066196]),
        ("norm.weight", [-0.40822906, -0.27874612]),
    ],
)
def test_the_hash_is_the_one_the_golden_values_were_made_with(name: str, expected: list[float]) -> None:
    """Weights and signals start with the values published beside the golden ones."""
    np.testing.assert_allclose(uniform(name, (len(expected),)), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("case", GOLDEN)
def test_every_tensor_equals_the_original_code(case: str) -> None:
    """In float64, every golden tensor is met to 1e-9, but for the digits its values were printed with."""
    model, (x, montage) = network(CONFIGS[case]), golden_input(case)
    assert model.config == CONFIGS[case]
    if GOLDEN[case].keys() == {"tokens"}:
        found = {"tokens": run(model, x, montage)["tokens"]}
    else:
        found = run_with_intermediates(model, x, montage)
    for name, expected in GOLDEN[case].items():
        values = found[name].numpy()
        assert list(values.shape) == expected["shape"]
        if "mean" in expected:
            np.testing.assert_allclose([values.mean(), values.std()], [expected["mean"], expected["std"]], atol=1e-9)
        flat, first, last = values.ravel(), expected["first"], expected.get("last", [])
        np.testing.assert_allclose(flat[: len(first)], first, rtol=0, atol=6e-9)
        np.testing.assert_allclose(flat[len(flat) - len(last) :], last, rtol=0, atol=6e-9)
        if "at" in expected:
            index, value = expected["at"]
            np.testing.assert_allclose(values[tuple(index)], value, rtol=0, atol=1e-9)


def test_float32_and_bfloat16_stay_close_to_float64() -> None:
    """The large network in float32 is within 2e-5 and 1e-6 of the norm of float64, and in bfloat16 within 2 %."""
    x, config = signal(1, 19, 320), CONFIGS["large, stride 64"]
    model = load({key: tensor.float() for key, tensor in hashed(VARIANTS["large"]).items()}, patch_stride=64)
    exact, found = tokens(network(config), x, NINETEEN), tokens(model, x.float(), NINETEEN)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = tokens(model, x.float(), NINETEEN)

    def error(inexact: Tensor) -> float:
        return float((inexact - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    assert (found - exact).abs().max() < 2e-5
    assert error(found) < 1e-6
    assert 1e-6 < error(reduced) < 0.02


# ---- Patches ---------------------------------------------------------------------------------------------------------


@given(n_times=st.integers(64, 2000), stride=st.sampled_from([16, 32, 64]))
def test_patches_are_cut_where_the_grid_says(n_times: int, stride: int) -> None:
    """Dropping the tail leaves whole patches alone; padding it adds one more that ends in zeros, or nothing."""
    z = torch.arange(1.0, n_times + 1).expand(2, 3, -1)
    dropped, padded = (eegpt.cut_patches(z, 64, stride, tail) for tail in ("drop", "pad"))
    assert dropped.shape == (2, (n_times - 64) // stride + 1, 3, 64)
    assert padded.shape[1] == -(-(n_times - 64) // stride) + 1
    assert torch.equal(padded[:, : dropped.shape[1]], dropped)
    assert torch.equal(dropped[0, :, 0, 0], torch.arange(dropped.shape[1]) * stride + 1.0)
    n_real = n_times - (padded.shape[1] - 1) * stride
    assert torch.equal(padded[0, -1, 0], torch.cat((z[0, 0, n_times - n_real :], torch.zeros(64 - n_real))))


@pytest.mark.parametrize(("stride", "touched"), [(64, [4]), (32, [8, 9])])
def test_a_sample_touches_the_patches_that_hold_it_and_no_other(stride: int, touched: list[int]) -> None:
    """All other patches stay the same to the last bit, so patches can be kept from one window to the next."""
    model, x = network(replace(TINY, patch_stride=stride)), signal(1, 5, 640)
    changed = x.clone()
    changed[0, 2, 300] += 1
    same = (tokens(model, x) == tokens(model, changed)).flatten(2).all(-1)[0]
    assert (~same).nonzero()[:, 0].tolist() == touched


def test_patches_know_nothing_of_their_place_in_time() -> None:
    """Patches in another order yield the same summaries in that order."""
    model, x = network(CONFIGS["tiny, stride 64"]), signal(1, 5, 640)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shuffled = x.reshape(1, 5, 10, 64)[:, :, order].flatten(2)
    torch.testing.assert_close(tokens(model, shuffled), tokens(model, x)[:, order], rtol=0, atol=1e-13)


@pytest.mark.parametrize("hop", [1, 3])
@pytest.mark.parametrize("stride", [32, 64])
def test_patches_encoded_once_serve_every_window(stride: int, hop: int) -> None:
    """Any window of a recording equals the read-out of patches that were encoded alone, as they came."""
    model, x = network(replace(TINY, patch_stride=stride)), signal(5, 1024)
    outputs: tuple[OutputName, ...] = ("embedding", "tokens")
    binding = model.bind(FIVE, outputs, pool="slots", scale=1.0)
    n = (512 - 64) // stride + 1
    once = torch.cat([model.encode_patches(patch[None], binding) for patch in x.unfold(1, 64, stride).unbind(1)])
    for first in range(0, len(once) - n + 1, hop):
        window = x[None, :, first * stride : first * stride + 512]
        expected = model.encode(window, binding, outputs)
        found = model.read_out(once[None, first : first + n], binding, outputs)
        for name in outputs:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)


def test_the_coarse_grid_is_part_of_the_fine_one() -> None:
    """Every other patch of stride 32 is a patch of stride 64."""
    x = signal(2, 5, 1280)
    fine, coarse = tokens(network(TINY), x), tokens(network(CONFIGS["tiny, stride 64"]), x)
    assert (fine.shape[1], coarse.shape[1]) == (39, 20)
    torch.testing.assert_close(fine[:, ::2], coarse, rtol=0, atol=1e-13)


def test_padding_touches_the_last_patch_alone() -> None:
    """A padded window is the dropped one and a patch more, which differs from the real one."""
    model, x = network(TINY), signal(1, 5, 320)
    padded, dropped, real = tokens(model, x[..., :300], tail="pad"), tokens(model, x[..., :300]), tokens(model, x)
    assert (padded.shape[1], dropped.shape[1], real.shape[1]) == (9, 8, 9)
    torch.testing.assert_close(padded[:, :8], dropped, rtol=0, atol=1e-13)
    assert (padded[:, 8] - real[:, 8]).abs().max() > 0.1


def test_zeros_are_padded_behind_the_channel_projection() -> None:
    """As in braindecode, the bias of the projection is not in what is padded."""
    model, x = network(CONFIGS["projection and probe"]), signal(1, 22, 96)
    binding = model.bind(TWENTY_TWO)
    last = torch.nn.functional.pad(model.prepare(x[..., 64:], binding), (0, 32))
    torch.testing.assert_close(tokens(model, x, TWENTY_TWO, tail="pad", scale=1e-3)[:, 1], model(last, binding))


# ---- Inference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, replace(TINY, n_summary=1, depth=1)])
def test_the_last_layer_may_spare_the_channels(config: EegptConfig) -> None:
    """Computing the summary alone in the last layer yields what computing all of it does."""
    model, x = network(config), signal(2, 5, 300)
    full = run_with_intermediates(model, x, FIVE)
    expected = model.norm(full[f"block {config.depth - 1}"][:, -config.n_summary :])
    torch.testing.assert_close(full["tokens"].flatten(0, 1), expected.flatten(0, 1), rtol=0, atol=1e-13)


def test_a_batch_equals_its_epochs_one_by_one() -> None:
    """No epoch of a batch touches another, in the probe neither."""
    model, x = network(CONFIGS["projection and probe"]), signal(3, 22, 1024)
    outputs = model.available_outputs
    together = run(model, x, TWENTY_TWO, outputs)
    alone = [run(model, epoch[None], TWENTY_TWO, outputs) for epoch in x]
    for name in outputs:
        torch.testing.assert_close(together[name], torch.cat([one[name] for one in alone]), rtol=0, atol=1e-13)
    assert (together["logits"][0] - together["logits"][1]).abs().max() > 0.01


def test_the_order_of_channels_does_not_matter_and_their_names_do() -> None:
    """Shuffled together, channels and names yield the same; a channel by another name does not."""
    model, x = network(TINY), signal(1, 5, 320)
    order = [3, 0, 4, 1, 2]
    shuffled = make_montage([FIVE.ch_names[i] for i in order])
    torch.testing.assert_close(tokens(model, x[:, order], shuffled), tokens(model, x), rtol=0, atol=1e-13)
    assert (tokens(model, x[:, order]) - tokens(model, x)).abs().max() > 0.1


def test_each_pool_is_what_its_name_says() -> None:
    """The four pools are means over patches and summary tokens, over either, or over none."""
    z = tokens(network(TINY), signal(2, 5, 320))
    pooled = {pool: eegpt.pool_tokens(z, pool) for pool in ("mean", "slots", "patches", "flat")}
    assert {pool: tuple(x.shape) for pool, x in pooled.items()} == {
        "mean": (2, 64),
        "slots": (2, 256),
        "patches": (2, 9, 64),
        "flat": (2, 9, 256),
    }
    torch.testing.assert_close(pooled["flat"][1, 5, 3 * 64 + 7], z[1, 5, 3, 7])
    torch.testing.assert_close(pooled["slots"][1, 3 * 64 + 7], z[1, :, 3, 7].mean())
    torch.testing.assert_close(pooled["patches"][1, 5, 7], z[1, 5, :, 7].mean())
    torch.testing.assert_close(pooled["mean"][1, 7], z[1, :, :, 7].mean())
    for pool, expected in pooled.items():
        found = run(network(TINY), signal(2, 5, 320), outputs=("embedding",), pool=pool)
        assert torch.equal(found["embedding"], expected)


def test_only_the_asked_outputs_are_computed() -> None:
    """Without logits the probe is not run, and with an embedding alone nothing else is returned."""
    model, x = network(CONFIGS["projection and probe"]), signal(1, 22, 1024)
    touched: list[str] = []
    model.linear_probe1.register_forward_hook(lambda *_: touched.append("probe"))
    assert set(run(model, x, TWENTY_TWO, ("embedding",))) == {"embedding"}
    assert not touched
    assert set(run(model, x, TWENTY_TWO, LOGITS)) == {"logits"}
    assert touched


@pytest.mark.parametrize("case", ["tiny, stride 32", "projection and probe"])
def test_microvolts_become_millivolts(case: str) -> None:
    """By default a microvolt is a thousandth of the unit of training, with a channel projection too."""
    model, (x, montage) = network(CONFIGS[case]), golden_input(case)
    found = run(model, 1000 * x, montage, scale=1e-3)["tokens"]
    torch.testing.assert_close(found, run(model, x, montage)["tokens"], rtol=0, atol=1e-12)
    assert torch.equal(found, model.encode(1000 * x, model.bind(montage), TOKENS)["tokens"])


def test_the_average_reference_is_the_chains_and_only_the_chains() -> None:
    """A stream at 160 Hz, as a training set was, is re-referenced once on its way; the network adds no second time."""
    info = StreamInfo("eeg", "", "EEG", 160.0, FIVE)
    steps = [step for step in build_chain(info, SPEC).describe() if "reference" in step]
    assert steps == ["average reference"]
    model, x = network(TINY), signal(1, 5, 320)
    assert (tokens(model, x + 1) - tokens(model, x)).abs().max() > 0.1


@pytest.mark.parametrize("case", ["tiny, stride 32", "projection and probe"])
def test_all_that_is_made_on_the_way_is_made_where_the_network_is(case: str) -> None:
    """Binding and running never rely on torch's default device, so a network may sit on any other."""
    model, (x, montage) = network(CONFIGS[case]), golden_input(case)
    if case == "tiny, stride 32":
        montage = make_montage(["EOG", *montage.ch_names[1:]])
    expected = run(model, x, montage, model.available_outputs, on_unknown="drop", tail="pad")
    with torch.device("meta"):
        found = run(model, x, montage, model.available_outputs, on_unknown="drop", tail="pad")
    for name in model.available_outputs:
        torch.testing.assert_close(found[name], expected[name])


def test_flat_channels_give_finite_numbers() -> None:
    """A dead cap, or one that is off by a quarter of a volt, yields finite outputs."""
    model = load({key: tensor.float() for key, tensor in hashed(TINY).items()})
    for volts in (0.0, 0.25):
        found = run(model, torch.full((1, 5, 320), 1e6 * volts), outputs=("embedding", "tokens"), scale=1e-3)
        assert all(tensor.isfinite().all() for tensor in found.values())


def test_rows_that_are_too_long_are_used_at_their_bound() -> None:
    """Twice too long or three times is the same to a bounded layer, a short row stays, and the file's is kept."""
    layer = eegpt.BoundedLinear(4, 2, longest=1.0)
    rows = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.3, 0.0, 0.4, 0.0]])
    layer.load_state_dict({"weight": rows, "bias": torch.zeros(2)})
    torch.testing.assert_close(layer(torch.eye(4)).T, torch.tensor([[0.6, 0, 0.8, 0], [0.3, 0, 0.4, 0]]))
    assert torch.equal(layer.weight, rows)
    config = CONFIGS["projection and probe"]
    longer = {key: 2 * tensor if key in BOUNDED else tensor for key, tensor in network(config).state_dict().items()}
    logits = [
        run(model, signal(2, 22, 1024), TWENTY_TWO, LOGITS)["logits"]
        for model in (network(config), load(longer, patch_stride=64))
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)


# ---- Contract --------------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_the_published_one() -> None:
    """Names sit at the rows that the table was trained with, in whatever case, and old temporal names at the new."""
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 62
    rows = "0 2 7 9 11 13 15 25 27 29 31 33 43 45 47 49 51 59 61"
    assert list(eegpt.channel_rows(PROJECTED).values()) == [int(row) for row in rows.split()]
    old = make_montage(["EEG T3-REF", "T4", "t5", "T6", "Fz.", "fCZ"]).ch_names
    assert eegpt.channel_rows(old) == dict(enumerate([25, 33, 43, 51, 11, 20]))
    anchors = {"AF3": 4, "FT7": 16, "FCZ": 20, "TP8": 42, "PO5": 53, "POZ": 55, "PO8": 58}
    assert {name: VOCABULARY.index(name) for name in anchors} == anchors


@pytest.mark.parametrize("names", [["Cz", "AFz", "M1"], ["Cz", "Fp1-F7"], ["Cz", "ch2"]])
def test_unknown_channels_are_refused_by_name(names: list[str]) -> None:
    """No channel ever gets the embedding of another."""
    with pytest.raises(ContractError, match=f"no embedding for {', '.join(names[1:])}: .* on_unknown to drop"):
        network(TINY).bind(make_montage(names))


def test_unknown_channels_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Dropped channels are as if they had never been, whatever they hold, and are named in a warning."""
    model, x = network(TINY), signal(1, 7, 320)
    montage = make_montage(["EOG", "Fz", "C3", "Cz", "AFz", "C4", "Pz"])
    expected = tokens(model, x[:, [1, 2, 3, 5, 6]])
    x[:, 0] = torch.nan
    with caplog.at_level(logging.WARNING, logger=eegpt.__name__):
        assert torch.equal(tokens(model, x, montage, on_unknown="drop"), expected)
    assert [record.getMessage() for record in caplog.records] == [
        "EEGPT has no embedding for EOG, AFz: left out, after the average reference"
    ]
    with pytest.raises(ContractError, match="no embedding for EOG, AFz: pick channels") as refused:
        model.bind(make_montage(["EOG", "AFz"]), on_unknown="drop")
    assert "on_unknown" not in str(refused.value)  # which would leave none


def test_two_names_of_one_place_are_refused() -> None:
    """T3 beside T7 would be the same channel twice."""
    with pytest.raises(ContractError, match="one embedding for T3, T7: pick one"):
        network(TINY).bind(make_montage(["T3", "Cz", "T7"]))


def test_untrained_rows_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Channels that no training set had are warned of, and trained ones are not."""
    with caplog.at_level(logging.WARNING, logger=eegpt.__name__):
        eegpt.channel_rows([name for name in VOCABULARY if name not in {"AF7", "AF8", "PO5", "PO6"}])
        assert not caplog.records
        eegpt.channel_rows(["Cz", "AF7", "PO6"])
    assert [record.getMessage() for record in caplog.records] == [
        "EEGPT never saw AF7, PO6 in training: better left out"
    ]


def test_windows_shorter_than_a_patch_are_refused() -> None:
    """63 samples are an error that names a duration that works, padded or not."""
    for tail in ("drop", "pad"):
        with pytest.raises(ContractError, match=r"63 samples are less than one: .* 0.25 s or more, such as 4.0 s"):
            run(network(TINY), torch.zeros(1, 5, 63), tail=tail)


def test_channels_other_than_the_bound_ones_are_refused() -> None:
    """Epochs, and patches, with another number of channels than the binding are an error."""
    model = network(TINY)
    binding = model.bind(FIVE)
    with pytest.raises(ContractError, match="bound to 5 channels, not 4"):
        model.encode(torch.zeros(1, 4, 320), binding, TOKENS)
    with pytest.raises(ContractError, match="bound to 5 channels, not 6"):
        model.encode_patches(torch.zeros(1, 6, 64), binding)
    with pytest.raises(ContractError, match="trained on 22 channels, not 5: pick those"):
        network(CONFIGS["projection and probe"]).bind(FIVE)


def test_the_probe_reads_windows_of_one_length() -> None:
    """Another number of patches is an error that says which length would do; without logits any will."""
    model, x = network(CONFIGS["projection and probe"]), signal(1, 22, 1280)
    with pytest.raises(ContractError, match=r"reads 16 patches, one every 64 .* has 20: .* 4.0 s \(1024 samples\)"):
        run(model, x, TWENTY_TWO, LOGITS)
    assert run(model, x, TWENTY_TWO, ("embedding",))["embedding"].isfinite().all()
    assert run(model, x[..., :1040], TWENTY_TWO, LOGITS)["logits"].isfinite().all()


def test_outputs_without_a_head_are_refused() -> None:
    """The published encoder has no probe, and says so."""
    assert network(TINY).available_outputs == ("embedding", "tokens")
    with pytest.raises(ContractError, match="no head for logits"):
        network(TINY).bind(FIVE, LOGITS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pool": "max"}, "pool is 'max': use one of mean, slots, patches, flat"),
        ({"tail": "keep"}, "tail is 'keep': use one of drop, pad"),
        ({"on_unknown": "guess"}, "on_unknown is 'guess': use one of error, drop"),
        ({"scale": 0.0}, "scale is 0.0: give what turns a microvolt"),
        ({"scale": float("nan")}, "scale is nan"),
    ],
)
def test_options_that_do_not_exist_are_refused(option: dict[str, Any], message: str) -> None:
    """A misspelt option is an error, not a default."""
    with pytest.raises(ConfigError, match=message):
        network(TINY).bind(FIVE, **option)


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def published(config: EegptConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an encoder, written down from the original code."""
    d = config.embed_dim
    shapes: dict[str, tuple[int, ...]] = {
        "summary_token": (1, config.n_summary, d),
        "patch_embed.proj.weight": (d, 1, 1, 64),
        "patch_embed.proj.bias": (d,),
        "chan_embed.weight": (62, d),
    }
    return shapes | layers("blocks", d, config.depth) | {"norm.weight": (d,), "norm.bias": (d,)}


def layers(name: str, d: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of transformer layers."""
    linear = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
    weights = linear | {"norm1": (d,), "norm2": (d,)}
    return {
        f"{name}.{i}.{layer}.{part}": shape if part == "weight" else shape[:1]
        for i in range(depth)
        for layer, shape in weights.items()
        for part in ("weight", "bias")
    }


def around_the_encoder(d: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what pretraining needs besides the two encoders."""
    shapes = {f"predictor.{key}": shape for key, shape in layers("predictor_blocks", d, 8).items()}
    shapes |= {f"reconstructor.{key}": shape for key, shape in layers("reconstructor_blocks", d, 8).items()}
    shapes |= {"predictor.mask_token": (1, 1, 4, d), "reconstructor.mask_token": (1, 1, d)}
    shapes |= {"reconstructor.chan_embed.weight": (62, d)}
    for part, out in (("predictor", d), ("reconstructor", 64)):
        shapes |= {
            f"{part}.{part}_embed.weight": (d, d),
            f"{part}.{part}_embed.bias": (d,),
            f"{part}.time_embed.freqs": (16,),
            f"{part}.{part}_norm.weight": (d,),
            f"{part}.{part}_norm.bias": (d,),
            f"{part}.{part}_proj.weight": (out, d),
            f"{part}.{part}_proj.bias": (out,),
        }
    return shapes


BRAINDECODE = {
    "chan_conv.weight": "chan_proj.proj.parametrizations.weight.original",
    "chan_conv.bias": "chan_proj.proj.bias",
    "linear_probe1.weight": "final_layer.probe1.parametrizations.weight.original",
    "linear_probe1.bias": "final_layer.probe1.bias",
    "linear_probe2.weight": "final_layer.probe2.parametrizations.weight.original",
    "linear_probe2.bias": "final_layer.probe2.bias",
}
HEADS = tuple(BRAINDECODE)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder under a prefix, heads as they are."""
    return {key if key in HEADS else prefix + key: tensor for key, tensor in state.items()}


def as_braindecode(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What braindecode saves of a state."""
    renamed = {BRAINDECODE.get(key, key): tensor for key, tensor in prefixed("target_encoder.", state).items()}
    return renamed | {"chans_id": torch.arange(62)[None]}


@pytest.mark.parametrize(
    ("variant", "n_tensors", "n_params"),
    [
        ("tiny1", 30, 108_288),
        ("tiny2", 30, 108_480),
        ("tiny3", 102, 408_384),
        ("little", 102, 1_603_200),
        ("base1", 78, 4_771_840),
        ("base2", 102, 6_352_128),
        ("base3", 78, 18_980_864),
        ("large", 102, 25_287_168),
    ],
)
def test_tensors_are_those_of_the_published_sizes(variant: str, n_tensors: int, n_params: int) -> None:
    """Names, shapes and counts are the original ones, and sizes are read off them, heads by the width."""
    config = VARIANTS[variant]
    assert {key: tuple(shape) for key, shape in eegpt.manifest(config).items()} == published(config)
    with torch.device("meta"):
        model = Eegpt(config)
    assert (len(model.state_dict()), model.n_params) == (n_tensors, n_params)
    assert EegptConfig.from_state(model.state_dict()) == config
    assert eegpt.variant_name(replace(config, n_classes=2, probe_patches=16)) == f"eegpt-{variant}"
    assert eegpt.variant_name(replace(config, n_heads=2, patch_stride=64)) == f"eegpt-{variant}"
    assert eegpt.variant_name(replace(config, depth=3)) == "eegpt-custom"


def test_the_published_file_has_exactly_these_tensors() -> None:
    """The encoder and braindecode's index of channels make a safetensors file of 101,160,080 bytes, as on the hub."""
    shapes = {f"target_encoder.{key}": ("F32", shape) for key, shape in published(VARIANTS["large"]).items()}
    tensors = [("chans_id", ("I64", (1, 62))), *sorted(shapes.items())]
    header, end = {}, 0
    for key, (dtype, shape) in tensors:
        begin, end = end, end + int(np.prod(shape)) * (8 if dtype == "I64" else 4)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    assert len(tensors) == 103
    assert 8 + length + -length % 8 + end == 101_160_080


def test_a_pretraining_checkpoint_loads_as_its_teacher_or_its_student() -> None:
    """Of its 413 tensors the 102 of one encoder are used, and none of the decoys of the same shape."""
    config = VARIANTS["tiny3"]
    teacher, student = eegpt.random_state(config, 0), eegpt.random_state(config, 1)
    others = {key: torch.zeros(shape) for key, shape in around_the_encoder(64).items()}
    state = prefixed("target_encoder.", teacher) | prefixed("encoder.", student) | others
    assert len(state) == 413
    assert eegpt.form_of(state) == "pretraining"
    assert eegpt.rename_keys(state) == teacher
    assert eegpt.rename_keys(state, "student") == student
    assert load(state).config == config
    with pytest.raises(WeightsError, match="hold no student"):
        eegpt.rename_keys(teacher, "student")
    which: Any = "encoder"
    with pytest.raises(ConfigError, match="use one of teacher, student"):
        eegpt.rename_keys(state, which)


@pytest.mark.parametrize("heads", [False, True])
def test_every_published_form_becomes_the_same_state(heads: bool) -> None:  # noqa: FBT001
    """The authors', braindecode's, wrapped and converted files load with nothing missing and nothing left over."""
    config = replace(TINY, n_proj_in=22, n_classes=4, probe_patches=16) if heads else TINY
    state = eegpt.random_state(config, 0)
    forms = {
        "downstream": prefixed("target_encoder.", state),
        "braindecode": as_braindecode(state),
        "canonical": state,
    }
    assert {form: len(tensors) for form, tensors in forms.items()} == {
        "downstream": len(state),
        "braindecode": len(state) + 1,
        "canonical": 42 + 6 * heads,
    }
    for form, tensors in forms.items():
        wrapped = {f"model.{key}": tensor for key, tensor in tensors.items()} | {"loss.weight": torch.ones(1)}
        for saved in (tensors, wrapped):
            assert eegpt.form_of(saved) == form
            assert eegpt.rename_keys(saved) == state
            assert load(saved).config == config


def test_rows_beyond_the_vocabulary_change_nothing() -> None:
    """For 64 channels without names braindecode makes 64 rows, of which named channels still read the first 62."""
    state, x = hashed(TINY), signal(1, 5, 320)
    more = state | {"chan_embed.weight": torch.cat((state["chan_embed.weight"], torch.ones(2, 64).double()))}
    model = load(more)
    assert model.config == replace(TINY, n_chan_rows=64)
    assert torch.equal(tokens(model, x), tokens(network(TINY), x))


def test_heads_and_stride_come_from_the_file_or_from_its_width() -> None:
    """What shapes do not show is asked for first, read from metadata second, and only then taken from the variants."""
    state = eegpt.random_state(TINY, 0)
    metadata = {"num_heads": "8", "patch_stride": "64"}
    found = EegptConfig.from_state(state, metadata=metadata)
    assert (found.n_heads, found.patch_stride) == (8, 64)
    found = EegptConfig.from_state(state, n_heads=2, patch_stride=16, metadata=metadata)
    assert (found.n_heads, found.patch_stride) == (2, 16)
    custom = eegpt.random_state(EegptConfig(embed_dim=96, n_summary=1, depth=1, n_heads=3), 0)
    assert EegptConfig.from_state(custom, n_heads=3).n_heads == 3
    with pytest.raises(WeightsError, match="no EEGPT is 96 wide, and no number of heads was given"):
        EegptConfig.from_state(custom)
    wrong = ({"n_heads": 7}, {"n_heads": 0}, {"n_heads": "eegdino_rs"}, *({"patch_stride": n} for n in (65, -1, 0)))
    for sizes in wrong:
        with pytest.raises(ConfigError, match="give heads that divide the width, and 32 or 64 as the stride"):
            EegptConfig.from_state(state, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "replacement", "message"),
    [
        ("summary_token", None, r"not the weights of an EEGPT.*summary_token"),
        ("linear_probe1.weight", None, r"not the weights of an EEGPT.*linear_probe1.weight"),
        ("patch_embed.proj.weight", torch.ones(64, 64), "not the weights of an EEGPT"),
        ("blocks.1.norm1.weight", torch.ones(63), r"blocks.1.norm1.weight has shape \(63,\) .* needs \(64,\)"),
        ("chan_embed.weight", torch.ones(58, 64), "58 rows where EEGPT knows 62 channels"),
        ("chan_conv.weight", torch.ones(20, 22, 1), r"chan_conv.weight has shape \(20, 22, 1\) .* needs \(19, 22, 1\)"),
        ("chan_conv.weight", torch.ones(()), "not the weights of an EEGPT"),
        ("linear_probe1.weight", torch.ones(0, 64), "not the weights of an EEGPT"),
        ("linear_probe2.weight", torch.ones(4, 250), r"linear_probe2.weight has shape \(4, 250\) .* needs \(4, 240\)"),
    ],
)
def test_other_weights_are_refused_in_a_sentence(key: str, replacement: Tensor | None, message: str) -> None:
    """A file of another model, or one whose shapes contradict each other, is refused by the tensor at fault."""
    state = eegpt.random_state(CONFIGS["projection and probe"], 0)
    state.pop(key, None)
    if replacement is not None:
        state[key] = replacement
    with pytest.raises(WeightsError, match=message):
        EegptConfig.from_state(state)


def test_random_weights_are_reproducible_and_behave() -> None:
    """A seed gives the same bits everywhere; untrained outputs are finite, vary in time and tell epochs apart."""
    config = replace(VARIANTS["little"], n_classes=2, probe_patches=39)
    state = eegpt.random_state(TINY, 7)
    drawn = [tensor.numpy().astype("<f4").tobytes() for tensor in state.values() if tensor.ndim > 1]
    assert zlib.crc32(b"".join(drawn)) == 1207772650
    assert not torch.equal(state["summary_token"], eegpt.random_state(TINY, 8)["summary_token"])
    model, x = load(eegpt.random_state(config, 0)), 60 * signal(2, 19, 1280).float()
    binding = model.bind(NINETEEN, model.available_outputs)
    found = model.encode(x, binding, model.available_outputs)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["embedding"].std() > 0.1
    assert found["tokens"].reshape(2, 39, 4, 128).std(1).mean() > 0.03
    assert (found["embedding"][0] - found["embedding"][1]).std() > 0.01
