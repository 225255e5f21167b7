"""Promises of `streamnode.models.zuna` and `zuna_flow`.

The golden values were computed with the original code (Zyphra's `zuna`, 7b6b858 for v1 and 1.1.6 for 1.1) in float32,
on weights and signals that a hash makes out of names and indices, so that nothing has to be stored or downloaded.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models import zuna, zuna_flow
from streamnode.models.weights import load_strict
from streamnode.models.zuna import VARIANTS, Zuna, ZunaConfig, normalise
from streamnode.models.zuna_flow import Generation, Schedule, rms_norm, rotations
from streamnode.montage import make_montage
from streamnode.signal.interpolate import interpolation_matrix
from streamnode.signal.offline import zero_phase
from streamnode.types import Float64Array, Montage, OutputName

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "zuna.json").read_text("utf-8"))
GENERATIONS: tuple[Generation, ...] = ("v1", "1.1")
ALL: tuple[OutputName, ...] = ("embedding", "tokens", "reconstruction")
SIZES: dict[str, dict[str, int]] = {
    "T": {
        "dim": 48, "encoder_depth": 2, "decoder_depth": 2, "n_heads": 2, "head_dim": 16, "hidden": 128, "time_dim": 16
    },
    "W": {"encoder_depth": 1, "decoder_depth": 1},
}  # fmt: skip
CAP = make_montage(["Fp1", "Cz", "O2", "T7", "P4"])
THREE = Montage(("a", "b", "c"), np.array([(-0.0309, 0.1146, 0.0279), (0, -0.0094, 0.1003), (0.0516, -0.0472, 0.0915)]))

both = pytest.mark.parametrize("generation", GENERATIONS)


# ---- Hashed weights and signals --------------------------------------------------------------------------------------


def hashed(name: str, count: int) -> Float64Array:
    """`count` numbers in [-1, 1) that depend on nothing but the name and their index."""
    h = np.arange(count, dtype=np.uint32)
    h *= np.uint32(0x9E3779B1)
    h += np.uint32(zlib.crc32(name.encode()))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h.astype(np.float64) * 2.0**-31 - 1


def hashed_tensor(key: str, shape: torch.Size) -> Tensor:
    """The weight that the published files call `key`."""
    v = hashed(key, shape.numel())
    if key == "encoder.registers" or key.endswith((".weight.weight", ".bias")):
        v *= 0.1
    elif len(shape) == 1:
        v = 1 + 0.2 * v
    elif key != "decoder.t_embedder.weight":
        v *= np.sqrt(3 / shape[1])
    if key.endswith(".weight.bias"):
        v = 1 + 2 * v
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)


def published_name(key: str, generation: Generation) -> str:
    """What the published file of a generation calls a tensor."""
    return re.sub(r"(norm[^.]*)\.weight$", r"\1.norm.weight", key) if generation == "1.1" else key


@lru_cache(maxsize=4)
def network(generation: Generation, size: str = "T", dtype: torch.dtype = torch.float32) -> Zuna:
    """A small network with hashed weights."""
    shapes = zuna.manifest(ZunaConfig(generation, **SIZES[size])).items()
    named = {published_name(key, generation): shape for key, shape in shapes}
    state = {f"model.{key}": hashed_tensor(key, shape).to(dtype) for key, shape in named.items()}
    return load(state, head_dim=SIZES[size].get("head_dim", 64))


def load(state: dict[str, Tensor], head_dim: int = 16) -> Zuna:
    """Load a state as the loader does: sizes read off it, no tensor missing, none left over."""
    state = zuna.rename_keys(state)
    with torch.device("meta"):
        model = Zuna(ZunaConfig.from_state(state, head_dim=head_dim))
    load_strict(model, state, path="state")
    return model.eval().requires_grad_(requires_grad=False)


def golden_input(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Three channels, the second of them masked, and noise, `(1, 3, 128)` and `(1, 12, 32)`."""
    eeg, noise = (
        torch.from_numpy((0.1 * np.sqrt(3) * hashed(name, 384)).astype(np.float32)).to(dtype)
        for name in ("golden.eeg", "golden.noise")
    )
    eeg = eeg.reshape(1, 3, 128)
    eeg[:, 1] = 0
    return eeg, noise.reshape(1, 12, 32)


def by_patch(rows: Tensor) -> Tensor:
    """`(1, 12, 32)` tokens of 3 channels by 4 patches from our order, channel by channel, to 1.1's own."""
    return rows.reshape(1, 3, 4, 32).transpose(1, 2).flatten(1, 2)


def by_channel(rows: Tensor) -> Tensor:
    """And back."""
    return rows.reshape(1, 4, 3, 32).transpose(1, 2).flatten(1, 2)


def golden_run(generation: Generation, size: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Every tensor that there is a golden value of, tokens in the generation's own order; bfloat16 is by autocast."""
    reduced = dtype == torch.bfloat16
    dtype = torch.float32 if reduced else dtype
    model, (eeg, noise) = network(generation, size, dtype), golden_input(dtype)
    encoder, decoder = model.encoder, model.decoder
    noise = by_channel(noise) if generation == "1.1" else noise
    seen: dict[str, Tensor] = {}
    watched = {
        "embedded": encoder.tok_embeddings,
        "attention 0": encoder.get_submodule("layers.0.attention"),
        "layer 0": encoder.get_submodule("layers.0"),
        "context": decoder.encoder_proj,
    }
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: seen.setdefault(name, output))
        for name, module in watched.items()
    ]
    with torch.inference_mode():
        binding = model.bind(THREE, outputs=ALL, steps=4)
        rotation, schedule = binding.rotation(4), cast("Schedule", binding.schedule)
        twice = rotation.repeat_interleave(2, dim=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            latents = encoder(zuna.to_tokens(eeg, 32), rotation).to(dtype)
            context = decoder.condition(latents)
            tokens = {
                "encoder": latents,
                "velocity": decoder(noise, context, schedule, 2, rotation),
                "unconditional": decoder(noise, None, schedule, 2, rotation),
            }
            *steps, tokens["sample"] = decoder.flow(latents, noise, schedule, rotation)
            *_, tokens["guided"] = decoder.flow(latents, noise, schedule, rotation, guidance=2.0)
        for hook in hooks:
            hook.remove()
        seen |= {
            "cos": twice.real,
            "sin": twice.imag,
            "gain": schedule.layers[0][2].gains[0],
            "time": decoder.t_embedder(torch.tensor([0.5], dtype=dtype)),
        }
        if size == "T":  # in W the first layer is the last, which drops rows
            seen["layer 1"] = encoder.layers[1](seen["layer 0"], twice)
    ours = tokens if generation == "v1" else {name: by_patch(rows) for name, rows in tokens.items()}
    return {**seen, **ours, "steps": steps}


def assert_golden(found: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    """Mean, standard deviation, first and last values, and row sums agree, as far as they are given."""
    values = found.double().flatten().numpy()
    close = partial(np.testing.assert_allclose, rtol=0, atol=tolerance + 5e-8)
    if "mean" in expected:
        close([values.mean(), values.std()], [expected["mean"], expected["std"]])
    close(values[: len(expected["first"])], expected["first"])
    if "last" in expected:
        close(values[-len(expected["last"]) :], expected["last"])
    if "rows" in expected:
        np.testing.assert_allclose(values.reshape(12, 32).sum(1), expected["rows"], rtol=0, atol=32 * tolerance)


def microvolts(n_epochs: int = 1, n_chans: int = 5, n_times: int = 160, seed: int = 0) -> Tensor:
    """`(n_epochs, n_chans, n_times)` float64 noise, a different 5 to 30 microvolts in each channel."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n_epochs, n_chans, n_times)) * np.linspace(5, 30, n_chans)[:, None])


def run(
    model: Zuna, x: Tensor, montage: Montage = CAP, outputs: Collection[OutputName] = ALL, **options: Any
) -> dict[OutputName, Tensor]:
    """Bind and run once, in a few steps."""
    call: dict[str, Any] = {name: options.pop(name) for name in ("bad", "noise") if name in options}
    call |= {"std_uv": options.pop("std_of_epochs")} if "std_of_epochs" in options else {}
    with torch.inference_mode():
        binding = model.bind(montage, outputs=outputs, **{"steps": 3, **options})
        return model.encode(x, binding, outputs, **call)


def exact(generation: Generation) -> Zuna:
    """The tiny network in float64, in which what is algebraically equal differs by rounding at the 12th digit only."""
    return network(generation, "T", torch.float64)


def assert_same(found: dict[OutputName, Tensor], expected: dict[OutputName, Tensor], tolerance: float = 1e-9) -> None:
    """All outputs agree."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=name)


# ---- Golden values ---------------------------------------------------------------------------------------------------


def test_the_hash_is_the_one_the_golden_values_were_made_with() -> None:
    """Weights, signal and noise start with the values published beside the golden ones."""
    np.testing.assert_allclose(
        (hashed("encoder.registers", 4) + 1) / 2, [0.9626150243, 0.4650549828, 0.0355618454, 0.8013151039], atol=1e-10
    )
    for key, first in {
        "encoder.layers.1.attention.wq.weight": [0.2229244, -0.2370022, -0.0293565, -0.1429014, 0.125858],
        "decoder.layers.0.ffn_norm.weight.bias": [1.1546595, 0.976359, 0.9726872, 1.0824397, 1.1918819],
        "decoder.t_embedder.weight": [0.66686, -0.5907513, 0.420025, 0.1987394, 0.6724061],
    }.items():
        weight = network("v1").state_dict()[key].flatten()[:5]
        np.testing.assert_allclose(weight, first, rtol=0, atol=5e-8)
    eeg, noise = golden_input()
    np.testing.assert_allclose(eeg[0, 0, :3], [0.0684841, 0.0127445, 0.0278605], atol=5e-8)
    np.testing.assert_allclose([noise.mean(), noise.std(correction=0)], [0.00197596, 0.1038022], atol=5e-8)


@both
@pytest.mark.parametrize("size", ["T", "W"])
def test_every_tensor_equals_the_original_code(generation: Generation, size: str) -> None:
    """Encoder, single evaluations with and without latents, and 4 steps with and without guidance are met."""
    found = golden_run(generation, size)
    for name, expected in GOLDEN["networks"][generation][size].items():
        if name == "steps":
            for z, first in zip(found["steps"], expected, strict=True):
                assert_golden(z, {"first": first}, 1e-5)
        elif name != "bfloat16":
            assert_golden(found[name], expected, 5e-6)


@both
def test_float64_meets_the_golden_values_to_their_last_digit(generation: Generation) -> None:
    """With float64 weights only the float32 rounding of the original remains, so nothing hides in the tolerance."""
    found = golden_run(generation, "T", torch.float64)
    for name in ("encoder", "velocity", "unconditional", "sample", "guided"):
        assert_golden(found[name], GOLDEN["networks"][generation]["T"][name], 2e-6)


def test_bfloat16_stays_close_to_the_original_in_bfloat16() -> None:
    """Under autocast results are float32, meet v1's official bfloat16 sampler and are within 1 % of full precision."""
    found, full = (golden_run("v1", "T", dtype)["sample"] for dtype in (torch.bfloat16, torch.float32))
    assert found.dtype == torch.float32
    assert_golden(found, GOLDEN["networks"]["v1"]["T"]["bfloat16"], 0.02)
    assert 1e-4 < (found - full).square().mean().sqrt() / full.std() < 0.01


def test_norms_and_rotations_are_computed_in_float32() -> None:
    """What comes in bfloat16 is widened first, so that nothing but the result is rounded."""
    x, gain = microvolts(1, 5, 16).bfloat16(), microvolts(1, 1, 16)[0, 0].bfloat16()
    assert torch.equal(rms_norm(x, gain), rms_norm(x.float(), gain.float()))
    true = F.rms_norm(x.double(), gain.shape, gain.double(), 1e-5)
    torch.testing.assert_close(rms_norm(x, gain).double(), true, rtol=1e-6, atol=1e-6)
    rotation = rotations(torch.arange(5)[:, None].expand(-1, 4), 16).flatten(1)
    heads = x[:, :, None]
    assert torch.equal(zuna_flow.rotate(heads, rotation), zuna_flow.rotate(heads.float(), rotation).bfloat16())


@pytest.mark.parametrize(
    ("column", "frame", "n_bins"),
    [(0, "head", 50), (1, "head", 100), (2, "template", 50), (3, "template", 100), (4, "scaled85", 50)],
)
def test_places_fall_into_the_published_bins(column: int, frame: Any, n_bins: int) -> None:
    """In every frame and for both generations the usual electrodes are where the original code puts them."""
    names = list(GOLDEN["bins"])
    ch_pos = torch.tensor(zuna.to_frame(make_montage(names).ch_pos, frame), dtype=torch.float32)
    expected = [columns[column] for columns in GOLDEN["bins"].values()]
    assert zuna.position_bins(ch_pos, n_bins).tolist() == expected


def test_places_outside_the_box_are_at_its_edge() -> None:
    """Positions on and beyond the edges of the box fall into the first and the last bin."""
    ch_pos = torch.tensor([[-0.5, -0.12, -0.119], [0.119, 0.12, 0.5]])
    assert zuna.position_bins(ch_pos, 100).tolist() == [[0, 0, 0], [99, 99, 99]]


# ---- Scaling ---------------------------------------------------------------------------------------------------------


def golden_recording() -> Float64Array:
    """`(4, 2560)` microvolts, high-passed as published: an FIR of 1691 taps without phase."""
    k = np.arange(1691) - 845
    lowpass = np.sinc(0.5 * k / 256) * np.hamming(1691)
    taps = (k == 0) - lowpass / lowpass.sum()
    return zero_phase(1e-5 * hashed("golden.rec", 10240).reshape(4, 2560), taps) * 1e6


def test_the_high_passed_recording_is_the_published_one() -> None:
    """What the golden epochs are cut from is right to begin with."""
    x, golden = golden_recording() * 1e-6, GOLDEN["preprocessing"]
    np.testing.assert_allclose(x[0, :5], golden["high-passed"]["first"], rtol=0, atol=1e-11)
    np.testing.assert_allclose([x.std(), x.mean()], [golden["high-passed"][key] for key in ("std", "mean")], rtol=1e-5)
    assert (x - x.mean(0)).std() == pytest.approx(golden["referenced"]["std"], rel=1e-9)


@pytest.mark.parametrize("segment", [0, 1])
@both
def test_epochs_are_scaled_as_published(generation: Generation, segment: int) -> None:
    """From high-passed microvolts each generation makes what its own preprocessing makes of them, and a way back."""
    recording, golden = golden_recording(), GOLDEN["preprocessing"]
    expected = golden[generation][segment]
    x = torch.from_numpy(recording[:, segment * 1280 :][:, :1280])[None]
    std_uv = float((recording - recording.mean(0)).std())
    scaled = normalise(x, generation, range(4), std_uv=std_uv)
    z = 10 * scaled.x[0].numpy()
    np.testing.assert_allclose(z[0, :5], expected["first"], rtol=1e-6)
    np.testing.assert_allclose(z[3, 1280 - len(expected.get("last", [])) :], expected.get("last", []), rtol=1e-6)
    np.testing.assert_allclose(z.std(), expected["std"], rtol=1e-6)
    scale = expected.get("scale", [golden["referenced"]["std"]] * 4)
    np.testing.assert_allclose(scaled.scale[0, :, 0], np.multiply(scale, 1e7), rtol=1e-6)
    torch.testing.assert_close(scaled.undo(scaled.x), x)


@both
@given(seed=st.integers(0, 99), offset=st.floats(-1e3, 1e3), gain=st.floats(1e-2, 1e2), n_bad=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_scaling_is_undone_exactly(generation: Generation, seed: int, offset: float, gain: float, n_bad: int) -> None:
    """Good channels come back as they were; bad and added ones are 0 to the network, whatever the bad ones held."""
    x = gain * microvolts(2, seed=seed) + offset
    x[:, 5 - n_bad :] = torch.nan
    good = list(range(5 - n_bad))
    scaled = normalise(x, generation, good, n_added=2)
    torch.testing.assert_close(scaled.undo(scaled.x)[:, good], x[:, good], rtol=0, atol=1e-9)
    assert not scaled.x[:, 5 - n_bad :].any()
    assert scaled.x.shape == (2, 7, 160)
    assert scaled.scale.isfinite().all()
    typical = scaled.scale[:, good].quantile(0.5, dim=1, keepdim=True)
    torch.testing.assert_close(scaled.scale[:, 5 - n_bad :], typical.expand(-1, n_bad + 2, -1))


def test_each_epoch_of_a_batch_may_have_its_own_scale() -> None:
    """For v1, one number an epoch divides each by its own and takes each back; 1.1 goes by its channels alone."""
    x, std_uv = microvolts(3), torch.tensor([5.0, 20.0, 80.0])
    together = normalise(x, "v1", range(5), std_uv=std_uv)
    for i, std in enumerate(std_uv.tolist()):
        alone = normalise(x[[i]], "v1", range(5), std_uv=std)
        assert torch.equal(together.x[[i]], alone.x)
        assert (together.scale[i] == 10 * std).all()
    torch.testing.assert_close(together.undo(together.x)[1:], x[1:])
    assert torch.equal(normalise(x, "1.1", range(5), std_uv=std_uv).x, normalise(x, "1.1", range(5)).x)
    assert normalise(x, "v1", range(5), std_uv=torch.zeros(3)).x.isfinite().all()


def test_the_scale_of_an_epoch_comes_with_it_unless_it_was_bound() -> None:
    """`encode` divides by the number it is given, reconstruction included; one that was bound wins over it."""
    model, x, std_uv = exact("v1"), microvolts(2), torch.tensor([7.0, 30.0])
    found = run(model, x, std_of_epochs=std_uv)
    for i, std in enumerate(std_uv.tolist()):
        expected = run(model, x[[i]], std_uv=std)
        assert_same({name: tensor[[i]] for name, tensor in found.items()}, expected)
    assert_same(run(model, x, std_uv=20.0, std_of_epochs=std_uv), run(model, x, std_uv=20.0))
    assert (found["reconstruction"] - run(model, x)["reconstruction"]).abs().max() > 0.1
    scaled = {
        (one, std): exact(one).bind(CAP, outputs=ALL, std_uv=std).scaled_by_epoch
        for one in GENERATIONS
        for std in (None, 5.0)
    }
    assert scaled == {("v1", None): True, ("v1", 5.0): False, ("1.1", None): False, ("1.1", 5.0): False}


def test_1_1_holds_small_channels_down_and_v1_does_not() -> None:
    """1.1 adds a microvolt to the standard deviation, so amplitude is not lost; v1 keeps ratios between channels."""
    x = torch.stack((microvolts()[0, 0], -microvolts()[0, 0]))[None]
    x = x / x.std(correction=0) * 6
    assert 10 * normalise(x, "1.1", [0, 1]).x[0, 0].std(correction=0) == pytest.approx(6 / 7, rel=1e-3)
    assert 10 * normalise(x, "v1", [0, 1], std_uv=12.0).x[0, 0].std(correction=0) == pytest.approx(1 / 2, rel=1e-3)
    torch.testing.assert_close(normalise(x, "v1", [0, 1]).x, normalise(50 * x, "v1", [0, 1]).x)


@both
def test_what_is_far_out_is_clamped(generation: Generation) -> None:
    """A spike reaches the network as 10 standard deviations at most."""
    x = microvolts(n_times=1280)
    x[0, 2, 77] = 1e4
    scaled = normalise(x, generation, range(5))
    assert scaled.x.max() == 1
    assert scaled.x.argmax() == 2 * 1280 + 77


@both
def test_flat_channels_give_finite_numbers(generation: Generation) -> None:
    """A dead cap, at any offset and in float32, yields finite outputs."""
    found = run(network(generation), torch.full((1, 5, 160), 187_500.3))
    assert all(tensor.isfinite().all() for tensor in found.values())


# ---- Inference -------------------------------------------------------------------------------------------------------


@both
def test_a_batch_equals_its_epochs_one_by_one(generation: Generation) -> None:
    """No epoch of a batch touches another."""
    model, x = exact(generation), microvolts(3)
    alone = [run(model, x[[i]]) for i in range(3)]
    assert_same(run(model, x), {name: torch.cat([one[name] for one in alone]) for name in ALL})
    assert (alone[0]["embedding"] - alone[1]["embedding"]).abs().max() > 0.01


@both
def test_the_order_of_channels_does_not_matter(generation: Generation) -> None:
    """Shuffled channels shuffle all that belongs to channels and change nothing else."""
    model, x, order = exact(generation), microvolts(), [3, 0, 4, 2, 1]
    noise = microvolts(seed=5)[0] / 200
    expected = run(model, x, noise=noise)
    expected["tokens"] = expected["tokens"].reshape(1, 5, 5, 32)[:, order].flatten(1, 2)
    expected["reconstruction"] = expected["reconstruction"][:, order]
    shuffled = Montage(tuple(CAP.ch_names[i] for i in order), CAP.ch_pos[order])
    assert_same(run(model, x[:, order], shuffled, noise=noise[order]), expected)


@both
def test_only_differences_of_places_matter(generation: Generation) -> None:
    """Moving the whole head by some bins, or the window in time, changes nothing."""
    model, x = exact(generation), microvolts()
    with torch.inference_mode():
        binding = model.bind(CAP, outputs=ALL, steps=3)
        bins = zuna.position_bins(torch.tensor(CAP.ch_pos, dtype=torch.float32), model.config.n_bins)
        space = rotations(bins + torch.tensor([0, 7, -3]), 16).flatten(1).to(binding.space)
        time = rotations(torch.arange(20, 30), 16).to(binding.time)
        expected = model.encode(x, binding, ALL)
        assert_same(model.encode(x, replace(binding, space=space, time=time), ALL), expected, 1e-4)
        assert (
            model.encode(x, replace(binding, space=space.conj()), ALL)["tokens"] - expected["tokens"]
        ).abs().max() > 0.01


@both
def test_keys_and_values_fold_exactly(generation: Generation) -> None:
    """The small matrices between latents and keys and values do what the context, its norm and the projections do."""
    decoder = exact(generation).decoder
    latents = microvolts(1, 12, 32) / 10
    with torch.inference_mode():
        schedule, context = decoder.schedule(3), decoder.condition(latents)
        times = decoder.t_embedder(torch.arange(3, 0, -1) / torch.tensor(3.0).double())
        for layer, moments in zip(decoder.layers, schedule.layers, strict=True):
            for time, moment in zip(times, moments, strict=True):
                y = rms_norm(decoder.encoder_proj(latents), layer.get_submodule("cross_attention_y_norm")(time))
                keys, values = (layer.get_submodule(f"cross_attention.{w}")(y) for w in ("wk", "wv"))
                torch.testing.assert_close(context @ moment.context, torch.cat((keys, values), -1), rtol=0, atol=1e-6)
        noise, rotation = (
            latents / 10,
            torch.polar(torch.ones(12, 8), microvolts(1, 12, 8)[0].float()).to(torch.cdouble),
        )
        without = decoder(noise, None, schedule, 1, rotation)
        zeros = decoder(noise, decoder.condition(torch.zeros_like(latents)), schedule, 1, rotation)
    torch.testing.assert_close(without, zeros, rtol=0, atol=1e-12)


@both
def test_dropping_rows_nobody_reads_changes_nothing(generation: Generation) -> None:
    """The encoder's last layer computes registers only, to the values they would have had beside the tokens."""
    layer = exact(generation).encoder.layers[1]
    h, rotation = microvolts(2, 10, 48) / 10, rotations(torch.arange(10)[:, None].expand(-1, 4), 16).flatten(1)
    with torch.inference_mode():
        found = layer(h, rotation.to(torch.cdouble), slice(0, None, 2))
        torch.testing.assert_close(found, layer(h, rotation.to(torch.cdouble))[:, ::2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_tokens", "encode", "step"), [(160, 110.2, 62.3), (480, 350.2, 196.9)])
def test_nothing_is_computed_that_need_not_be(n_tokens: int, encode: float, step: float) -> None:
    """The published sizes cost no more operations (in 1e9) than the specification's exact shortcuts leave."""
    with torch.inference_mode(), torch.device("meta"):
        model = Zuna(VARIANTS["1.1"])
        tokens, rotation = torch.empty(1, n_tokens, 32), torch.empty(n_tokens, 32, dtype=torch.cfloat)
        with FlopCounterMode(display=False) as encoding:
            latents = model.encoder(tokens, rotation)
        schedule, context = model.decoder.schedule(1), model.decoder.condition(latents)
        with FlopCounterMode(display=False) as stepping:
            model.decoder(tokens, context, schedule, 0, rotation)
    found = [counter.get_total_flops() / 1e9 for counter in (encoding, stepping)]
    assert found == pytest.approx([encode, step], abs=0.05)


@both
def test_outputs_are_as_documented_and_only_the_asked_ones_are_computed(generation: Generation) -> None:
    """Each output has its documented shape, and without the reconstruction the decoder does not run."""
    model, x = network(generation), microvolts(2).float()
    found = run(model, x)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "embedding": (2, 32),
        "tokens": (2, 25, 32),
        "reconstruction": (2, 5, 160),
    }
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    ran: list[bool] = []
    with model.decoder.register_forward_hook(lambda *_: ran.append(True)):
        run(model, x, outputs={"tokens"})
        assert not ran
        run(model, x)
        assert len(ran) == 3


def test_the_embedding_is_pooled_as_asked() -> None:
    """One row an epoch: the mean of all tokens, of each channel's, or all of them."""
    model, x = exact("v1"), microvolts(2)
    tokens = run(model, x)["tokens"]
    for pool, expected in {
        "mean": tokens.mean(1),
        "per_channel": tokens.reshape(2, 5, 5, 32).mean(2).flatten(1),
        "per_token": tokens.flatten(1),
    }.items():
        torch.testing.assert_close(run(model, x, outputs={"embedding"}, pool=pool)["embedding"], expected)


# ---- Channels that are bad or absent ---------------------------------------------------------------------------------


@both
def test_what_a_bad_channel_holds_does_not_matter(generation: Generation) -> None:
    """A masked channel may hold anything, even NaN, even inside the reference, and nothing changes."""
    model, x, railed = exact(generation), microvolts(), microvolts()
    railed[:, 2] = torch.nan
    expected = run(model, x, bad=(2,))
    assert_same(run(model, railed, bad=(2,)), expected)
    railed[:, 2] = 1e3
    referenced = run(model, railed - railed.mean(1, keepdim=True), bad=(2,))
    torch.testing.assert_close(referenced["tokens"], expected["tokens"], rtol=0, atol=1e-9)
    assert (run(model, x)["tokens"] - expected["tokens"]).abs().max() > 0.01


@both
def test_single_tokens_can_be_masked(generation: Generation) -> None:
    """A masked token is one of zeros; masking all of a channel is to call it bad; the rest is seen."""
    model, x = exact(generation), microvolts()
    with torch.inference_mode():
        binding = model.bind(CAP, outputs={"tokens"})
        tokens = zuna.to_tokens(normalise(x, generation, [0, 1, 3, 4]).x, 32)
        masked = torch.zeros(25, dtype=torch.bool)
        masked[10:15] = True
        noisy = tokens + masked[:, None]
        expected = run(model, x, bad=(2,))["tokens"]
        torch.testing.assert_close(model.encode_tokens(noisy, binding, masked), expected)
        masked[3], tokens[:, 3] = True, 0
        found = model.encode_tokens(noisy, binding, masked[None])
        torch.testing.assert_close(found, model.encode_tokens(tokens, binding))
    assert (found - expected).abs().max() > 0.01


@both
def test_an_added_channel_is_a_bad_one_at_its_place(generation: Generation) -> None:
    """A channel nobody recorded is reconstructed as if it had been recorded and were bad; bound ones stay single."""
    model, x = exact(generation), microvolts()
    added = run(model, x, add=["cz", "Pz"])
    bad = run(model, torch.cat((x, x[:, :1]), dim=1), make_montage([*CAP.ch_names, "Pz"]), bad=(5,))
    torch.testing.assert_close(added["reconstruction"], bad["reconstruction"])
    torch.testing.assert_close(added["tokens"], bad["tokens"][:, :25])
    assert model.bind(CAP, outputs=ALL, add=["cz", "Pz"]).montage.ch_names == ("Fp1", "Cz", "O2", "T7", "P4", "Pz")
    somewhere = Montage(("Cz", "mine"), np.array([[0.0, 0.0, 0.1], [0.0, 0.1, 0.0]]))
    elsewhere = run(model, x, add=somewhere)["reconstruction"]
    assert elsewhere.shape == (1, 6, 160)
    assert (elsewhere[:, 5] - added["reconstruction"][:, 5]).abs().max() > 0.1


def test_a_number_of_channels_fills_the_cap_evenly() -> None:
    """Each channel to add is of all sites the farthest from those that are there, the ones before it included."""
    found = network("1.1").bind(CAP, outputs=ALL, add=16).montage
    assert found.ch_names[:5] == CAP.ch_names
    assert found.n_chans == len(set(found.ch_names)) == 16
    assert network("1.1").bind(CAP, outputs=ALL, add=5).montage == CAP
    sites = zuna.farthest(CAP, 64)
    for n_chans in range(5, 16):
        others = make_montage([name for name in sites if name not in found.ch_names[:n_chans]]).ch_pos
        distance = np.linalg.norm(others[:, None] - found.ch_pos[:n_chans], axis=-1).min(axis=1)
        added = np.linalg.norm(found.ch_pos[n_chans] - found.ch_pos[:n_chans], axis=1).min()
        assert added == pytest.approx(distance.max())


def test_what_the_network_is_told_is_one_may_be_chosen() -> None:
    """With another `data_norm` it is as if the signal were so much larger, and microvolts come back all the same."""
    model, x = exact("v1"), microvolts()
    usual, double = (run(model, x, std_uv=std, data_norm=norm) for std, norm in ((20.0, 10.0), (10.0, 20.0)))
    assert_same(double, usual)
    assert (run(model, x, std_uv=20.0, data_norm=20)["tokens"] - usual["tokens"]).abs().max() > 0.01


def test_known_channels_are_kept_on_demand() -> None:
    """With `keep_known`, good channels come back bit for bit and the others as without it."""
    model, x = network("1.1"), microvolts(2).float()
    free, kept = (run(model, x, bad=(1,), add=["Pz"], keep_known=keep)["reconstruction"] for keep in (False, True))
    assert torch.equal(kept[:, [0, 2, 3, 4]], x[:, [0, 2, 3, 4]])
    assert torch.equal(kept[:, [1, 5]], free[:, [1, 5]])
    assert not torch.isclose(free[:, [0, 2, 3, 4]], x[:, [0, 2, 3, 4]]).all()


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
def test_what_passes_without_the_sampler_is_what_went_in(half: torch.dtype | None) -> None:
    """With 0 steps, channels come back bit for bit, also in half precision, and none reaches another but added ones."""
    model, x = network("1.1"), microvolts(2).float()
    montage = make_montage([*CAP.ch_names, "Pz"])
    splines = torch.tensor(interpolation_matrix(montage, (5,))[5:, :5])
    for added in ([], ["Pz"]):
        binding = model.bind(CAP, outputs=ALL, add=added, keep_known=True, steps=1)
        with torch.inference_mode(), torch.autocast("cpu", half, enabled=half is not None):
            passing = model.with_steps(binding, 0)
            found = model.encode(x, passing, ALL)["reconstruction"]
            lost = x.clone()
            lost[:, 1, 7] = torch.nan
            of_lost = model.encode(lost, passing, ALL, bad=(1,))["reconstruction"]
        assert torch.equal(found[:, :5], x)
        torch.testing.assert_close(found[:, 5:].double(), (splines @ x.double())[:, : len(added)], rtol=0, atol=1e-4)
        torch.testing.assert_close(of_lost[:, :5], lost, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("outputs", [("reconstruction",), ALL])
def test_what_is_kept_is_a_copy(outputs: tuple[OutputName, ...]) -> None:
    """Whoever fills his buffer with the next epoch does not change the result of the one before."""
    x = microvolts().float()
    kept = run(network("1.1"), x, outputs=outputs, keep_known=True)["reconstruction"]
    expected = x.clone()
    x.zero_()
    assert torch.equal(kept, expected)


@both
def test_microvolts_come_back_in_the_reference_they_came_in(generation: Generation) -> None:
    """What is common to all channels passes by the network."""
    model, x = exact(generation), microvolts()
    common = 500 * microvolts(1, 1, seed=3)
    expected, found = run(model, x), run(model, x + common)
    expected["reconstruction"] = expected["reconstruction"] + common
    assert_same(found, expected, 1e-7)


# ---- Sampling --------------------------------------------------------------------------------------------------------


def test_noise_depends_on_the_seed_alone() -> None:
    """Epochs start from the same noise whenever they come; a seed changes it, and given noise replaces it."""
    model, x = exact("v1"), microvolts(2)
    x[1] = x[0]
    drawn = run(model, x, seed=4)["reconstruction"]
    torch.testing.assert_close(drawn[0], drawn[1])
    assert torch.equal(run(model, x, seed=4)["reconstruction"], drawn)
    assert (run(model, x, seed=5)["reconstruction"] - drawn).abs().max() > 0.1
    noise = model.bind(CAP, outputs=ALL, seed=5, steps=1).noise
    assert noise is not None
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(
        run(model, x, seed=4, noise=noise[:, :160])["reconstruction"], run(model, x, seed=5)["reconstruction"]
    )


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("adams", 2)])
def test_samplers_solve_an_equation_with_a_known_solution(sampler: Any, order: int) -> None:
    """For dz/dt = z the solution is 1/e; each doubling of the steps divides the error by 2 to the order."""

    def solve(steps: int) -> float:
        seen: list[int] = []

        def velocity(z: Tensor, step: int) -> Tensor:
            seen.append(step)
            return z

        *_, z = zuna_flow.integrate(velocity, torch.ones(1).double(), steps, sampler)
        assert seen == list(range(steps))
        return abs(float(z) - 1 / math.e)

    errors = [solve(steps) for steps in (50, 100, 200)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@both
def test_adams_comes_closer_than_euler(generation: Generation) -> None:
    """On the (untrained) tiny network, adams nears 50 steps of Euler as its steps grow; here 10 of it beat those 50."""
    model, (eeg, noise) = exact(generation), golden_input(torch.float64)
    with torch.inference_mode():
        binding = model.bind(THREE, outputs={"tokens"})
        rotation = binding.rotation(4)
        latents = model.encoder(zuna.to_tokens(eeg, 32), rotation)

        def draw(steps: int, sampler: Any) -> Tensor:
            *_, z = model.decoder.flow(latents, noise, model.decoder.schedule(steps), rotation, sampler=sampler)
            return z

        published, solution = draw(50, "euler"), draw(200, "adams")
        drawn = {steps: draw(steps, "adams") for steps in (4, 6, 8, 10, 20)}
        euler_at_10 = draw(10, "euler")

    def error(z: Tensor, truth: Tensor) -> float:
        return float((z - truth).square().mean().sqrt() / truth.square().mean().sqrt())

    to_published = [error(drawn[steps], published) for steps in (4, 6, 8)]
    assert to_published == sorted(to_published, reverse=True)
    assert error(drawn[10], published) < 0.25 * error(euler_at_10, published)
    assert error(drawn[10], solution) < error(published, solution)
    assert error(drawn[20], solution) < 0.3 * error(drawn[10], solution)


# ---- Contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_times", [0, 33, 1281])
def test_windows_of_broken_patches_are_refused(n_times: int) -> None:
    """A length that is no multiple of the patch is an error that names a duration that works."""
    with pytest.raises(
        ContractError, match=rf"{n_times} samples are not: choose a multiple of 0.125 s .* such as 5.0 s"
    ):
        run(network("v1"), torch.zeros(1, 5, n_times))


@pytest.mark.parametrize(("generation", "n_patches", "limit"), [("v1", 50, "6.25"), ("1.1", 256, "32.0")])
def test_windows_beyond_the_rotary_table_are_refused(generation: Generation, n_patches: int, limit: str) -> None:
    """The longest window of each generation works, and one patch more does not."""
    model, two = network(generation), make_montage(["Cz", "Pz"])
    assert run(model, torch.zeros(1, 2, 32 * n_patches), two, {"tokens"})["tokens"].shape == (1, 2 * n_patches, 32)
    with pytest.raises(ContractError, match=f"ZUNA {generation} takes windows up to {limit} s, not"):
        run(model, torch.zeros(1, 2, 32 * n_patches + 32), two, {"tokens"})


@pytest.mark.parametrize(
    ("bad", "message"), [(range(5), "0 of 5 channels are good"), (range(4), "1 of 5 channels are good")]
)
def test_too_few_good_channels_are_refused(bad: range, message: str) -> None:
    """Without two good channels there is nothing to go by."""
    with pytest.raises(ContractError, match=f"{message}.* at least two"):
        run(network("v1"), torch.zeros(1, 5, 160), bad=bad)


def test_channels_other_than_the_bound_ones_are_refused() -> None:
    """Epochs with another number of channels than the binding are an error, added channels not counted."""
    with pytest.raises(ContractError, match="bound to 5 channels, not 6"):
        run(network("v1"), torch.zeros(1, 6, 160), add=["Pz"])


def test_channels_without_a_place_are_refused_by_name() -> None:
    """No position is ever guessed, neither of a recorded channel nor of an added one."""
    with pytest.raises(ContractError, match="where EXG1 sits: give positions, or drop the channels"):
        network("v1").bind(make_montage(["Cz", "EXG1"]), outputs={"embedding"})
    with pytest.raises(ContractError, match="where EXG1 sits: give positions, or drop the channels"):
        network("v1").bind(make_montage(["Cz", "EXG1"]), outputs={"embedding"}, add=8)
    with pytest.raises(ConfigError, match="the 10-05 system has no elsewhere, Qz to add: use its names"):
        network("v1").bind(CAP, outputs={"embedding"}, add=["Pz", "elsewhere", "Qz"])


def test_outputs_without_weights_or_binding_are_refused() -> None:
    """An encoder alone embeds, but does not reconstruct; nor does a binding that was not made for it."""
    state = zuna.random_state(ZunaConfig("1.1", **SIZES["T"]), 0)
    encoder = load({key: tensor for key, tensor in state.items() if key.startswith("encoder.")})
    assert encoder.available_outputs == ("embedding", "tokens")
    assert run(encoder, microvolts().float(), outputs={"embedding"})["embedding"].isfinite().all()
    with pytest.raises(ContractError, match="nothing for reconstruction"):
        encoder.bind(CAP, outputs=ALL)
    model = network("v1")
    with pytest.raises(ContractError, match="bound without the reconstruction"):
        model.encode(microvolts().float(), model.bind(CAP, outputs={"tokens"}), ALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, "use one of mean, per_channel, per_token"),
        ({"frame": "mni"}, "use one of head, template, scaled85"),
        ({"sampler": "heun"}, "use one of euler, adams"),
        ({"steps": 0}, "take at least 1"),
        ({"std_uv": 0.0}, "give the standard deviation of the recording"),
        ({"data_norm": 0.0}, "give the published 10, or another number above 0"),
        ({"outputs": {"tokens"}, "guidance": 2.0}, "guidance steers a reconstruction, and none is asked for"),
        ({"add": 4}, "5 channels cannot become 4: ask for 5 to 64, or name the channels to add"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    """A misspelt or impossible option is an error, not a default."""
    with pytest.raises(ConfigError, match=message):
        network("v1").bind(CAP, **{"outputs": ALL, **options})


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def published(generation: Generation) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a published file, written down from the original code."""
    later = generation == "1.1"
    shapes: dict[str, tuple[int, ...]] = {"encoder.registers": (1, 32), "decoder.t_embedder.weight": (32, 1)}

    def affine(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def attention(name: str) -> None:
        shapes.update({f"{name}.{w}.weight": (512, 1024) for w in ("wq", "wk", "wv")})
        shapes[f"{name}.wo.weight"] = (1024, 512)
        if later:
            shapes.update({f"{name}.{norm}.norm.weight": (64,) for norm in ("q_norm", "k_norm")})

    def feed_forward(name: str) -> None:
        shapes.update({f"{name}.{w}.weight": (2816, 1024) for w in ("w1", "w3")})
        shapes[f"{name}.w2.weight"] = (1024, 2816)

    plain = ".norm.weight" if later else ".weight"
    for part in ("encoder", "decoder"):
        affine(f"{part}.tok_embeddings", 1024, 32)
        shapes[f"{part}.output.weight"] = (32, 1024)
    shapes[f"encoder.norm{plain}"] = (1024,)
    affine("decoder.norm.weight", 1024, 64)
    affine("decoder.t_embedder.proj", 64, 64)
    affine("decoder.encoder_proj", 1024, 32)
    for i in range(16):
        encoder, decoder = f"encoder.layers.{i}", f"decoder.layers.{i}"
        attention(f"{encoder}.attention")
        attention(f"{decoder}.attention")
        attention(f"{decoder}.cross_attention")
        feed_forward(f"{encoder}.feed_forward")
        feed_forward(f"{decoder}.feed_forward")
        shapes.update({f"{encoder}.{norm}{plain}": (1024,) for norm in ("attention_norm", "ffn_norm")})
        for norm in ("cross_attention_x_norm", "cross_attention_y_norm", "attention_norm", "ffn_norm"):
            affine(f"{decoder}.{norm}.weight", 1024, 64)
        if later:
            posts = [f"{layer}.{norm}" for layer in (encoder, decoder) for norm in ("attention_norm", "ffn_norm")]
            shapes.update({f"{post}_post{plain}": (1024,) for post in (*posts, f"{decoder}.cross_attention_norm")})
    return shapes


@pytest.mark.parametrize(
    ("generation", "n_tensors", "n_encoder", "n_decoder"),
    [("v1", 463, 172_066_848, 209_951_808), ("1.1", 639, 172_101_664, 210_005_056)],
)
def test_tensors_are_those_of_the_published_files(
    generation: Generation, n_tensors: int, n_encoder: int, n_decoder: int
) -> None:
    """Names, shapes and counts are the published ones, so files load strictly; sizes and generation show in them."""
    with torch.device("meta"):
        files = {f"model.{key}": torch.empty(shape) for key, shape in published(generation).items()}
        model = Zuna(VARIANTS[generation])
    state = zuna.rename_keys(files)
    assert {key: tensor.shape for key, tensor in state.items()} == zuna.manifest(VARIANTS[generation])
    assert len(state) == n_tensors
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == n_encoder
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == n_decoder
    assert model.n_params == n_encoder + n_decoder + 32
    assert ZunaConfig.from_state(state) == VARIANTS[generation]
    assert (zuna.form_of(files), zuna.form_of(state)) == ("original", "canonical")


@both
def test_variants_are_named_by_their_sizes(generation: Generation) -> None:
    """The published sizes have names, with or without the decoder; all others are custom."""
    config = VARIANTS[generation]
    with torch.device("meta"):
        state = Zuna(replace(config, decoder_depth=0)).state_dict()
    encoder = ZunaConfig.from_state(state)
    assert encoder == replace(config, decoder_depth=0)
    assert {zuna.variant_name(config), zuna.variant_name(encoder)} == {f"zuna-{generation}"}
    assert zuna.variant_name(ZunaConfig(generation, **SIZES["T"])) == "zuna-custom"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.norm.norm.weight", "encoder.norm.weight"),
        ("encoder.norm.weight", "encoder.norm.weight"),
        ("decoder.norm.weight.weight", "decoder.norm.weight.weight"),
        ("model.decoder.layers.3.attention.q_norm.norm.weight", "decoder.layers.3.attention.q_norm.weight"),
        ("module._orig_mod.encoder.layers.0.ffn_norm_post.norm.weight", "encoder.layers.0.ffn_norm_post.weight"),
        ("decoder.layers.0.ffn_norm.weight.bias", "decoder.layers.0.ffn_norm.weight.bias"),
    ],
)
def test_names_are_unified(theirs: str, ours: str) -> None:
    """Prefixes and 1.1's second `norm` go; v1's norms and the adaptive ones stay."""
    assert list(zuna.rename_keys({theirs: torch.ones(1)})) == [ours]


def test_what_a_trainer_kept_beside_the_network_goes() -> None:
    """Where keys have a prefix, those without it are not the network's."""
    assert list(zuna.rename_keys({"model.encoder.registers": torch.ones(1), "loss.weight": torch.ones(1)})) == [
        "encoder.registers"
    ]


@pytest.mark.parametrize(
    ("key", "replacement", "message"),
    [
        ("encoder.output.weight", None, r"not the weights of a ZUNA.*encoder.output.weight"),
        ("encoder.tok_embeddings.weight", torch.ones(3), "not the weights of a ZUNA"),
        ("encoder.layers.0.attention.q_norm.weight", torch.ones(12), "attention 32 wide does not divide into heads 12"),
        ("decoder.t_embedder.weight", torch.ones(()), "not the weights of a ZUNA"),
    ],
)
def test_other_weights_are_refused_in_a_sentence(key: str, replacement: Tensor | None, message: str) -> None:
    """A file of another model is refused by the tensor at fault."""
    state = zuna.random_state(ZunaConfig("1.1", **SIZES["T"]), 0)
    state.pop(key, None)
    if replacement is not None:
        state[key] = replacement
    with pytest.raises(WeightsError, match=message):
        ZunaConfig.from_state(state)


def test_one_generation_does_not_take_the_weights_of_the_other() -> None:
    """Weights of 1.1 do not pass for v1's: their norms are left over."""
    state = zuna.random_state(ZunaConfig("1.1", **SIZES["T"]), 0)
    with pytest.raises(WeightsError, match=r"22 unexpected: .*encoder.layers.0.attention.q_norm.weight"):
        load_strict(Zuna(ZunaConfig("v1", **SIZES["T"])), state, path="state")
    assert ZunaConfig.from_state(state).generation == "1.1"


@both
def test_random_weights_are_reproducible_and_behave(generation: Generation) -> None:
    """A seed gives the same bits everywhere; untrained outputs are finite, vary and tell epochs apart."""
    config = ZunaConfig(generation, **SIZES["T"])
    state = zuna.random_state(config, 7)
    drawn = b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in state.values() if tensor.ndim > 1)
    assert zlib.crc32(drawn) == 2679790914
    assert not torch.equal(state["encoder.registers"], zuna.random_state(config, 8)["encoder.registers"])
    found = run(load(state), microvolts(2).float())
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["embedding"].std() > 0.1
    assert found["tokens"].std(1).mean() > 0.1
    assert found["reconstruction"].std(-1).min() > 1
    assert (found["embedding"][0] - found["embedding"][1]).std() > 0.01
