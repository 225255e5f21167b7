"""Promises of `streamnode.models.luna`.

The golden values were computed with the original code (github.com/pulp-bio/BioFoundation, 1923999) in float32, on
weights and signals that a hash makes out of names and indices, so that nothing has to be stored or downloaded.
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
from torch import Tensor

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models import luna
from streamnode.models.luna import LUNA, VARIANTS, VOCABULARY, LunaConfig
from streamnode.montage import make_montage
from streamnode.types import Float64Array, Montage, OutputName

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "luna.json").read_text("utf-8"))
TINY = LunaConfig(embed_dim=32, n_queries=2, depth=2)
CONFIGS = {"tiny": TINY, **VARIANTS}
ALL: tuple[OutputName, ...] = ("embedding", "tokens", "logits", "reconstruction", "attention")
TOLERANCE = {"attention": 1e-6, "unified": 2e-5, "block 0": 2e-5, "tokens": 2e-5, "location": 2e-5}
TUEG22 = (
    "FP1-F7 F7-T3 T3-T5 T5-O1 FP2-F8 F8-T4 T4-T6 T6-O2 T3-C3 C3-CZ CZ-C4 C4-T4 FP1-F3 F3-C3 C3-P3 P3-O1 FP2-F4 F4-C4 "
    "C4-P4 P4-O2 A1-T3 T4-A2"
)
SIENA29 = "FP1 FP2 F3 C3 P3 O1 F7 T3 T5 FC1 FC5 CP1 CP5 F9 FZ CZ PZ F4 C4 P4 O2 F8 T4 T6 FC2 FC6 CP2 CP6 F10"
SEED62 = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 C4 C6 T8 TP7 "
    "CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
)


# ---- Hashed weights, signals and positions ---------------------------------------------------------------------------


def hashed(key: str, count: int) -> Float64Array:
    """`count` numbers in [-1, 1) that depend on nothing but the key and their index."""
    values = np.empty(count)
    offset = np.uint32((zlib.crc32(key.encode()) + 1) * 0x85EBCA77 & 0xFFFFFFFF)
    for start in range(0, count, 1 << 20):  # piece by piece, to stay in the cache: huge has 3e8 weights
        h = np.arange(start + 1, min(start + (1 << 20), count) + 1, dtype=np.uint32)
        h *= np.uint32(0x9E3779B1)
        h += offset
        for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39), (15, 1)):
            h ^= h >> np.uint32(shift)
            h *= np.uint32(factor)
        values[start : start + len(h)] = h
    values *= 2.0**-31
    values -= 1
    return values


def hashed_tensor(key: str, shape: torch.Size) -> Tensor:
    """The weight called `key`."""
    if key.endswith("rotary_emb.freqs"):
        return luna.RotaryFrequencies(2 * shape[0]).freqs
    if not shape:
        return torch.ones(())
    values = hashed(key, shape.numel())
    if len(shape) > 1:
        values *= np.sqrt(3 / (shape.numel() // shape[0]))
    else:
        values *= 0.1
        values += key.endswith(".weight")
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


@lru_cache(maxsize=2)
def network(variant: str) -> LUNA:
    """A variant with both heads and hashed weights."""
    config = replace(CONFIGS[variant], n_classes=4)
    return load({key: hashed_tensor(key, shape) for key, shape in luna.manifest(config).items()})


def load(state: dict[str, Tensor]) -> LUNA:
    """Load a state as the loader does: sizes read off it, no tensor missing, none left over."""
    state = luna.rename_keys(state)
    with torch.device("meta"):
        model = LUNA(LunaConfig.from_state(state))
    model.load_state_dict(state, assign=True)
    return model.eval()


def microvolts(n_chans: int, n_times: int, window: int = 0) -> Float64Array:
    """`(n_chans, n_times)`: three sines a channel and some hashed noise."""
    c, t = np.arange(n_chans)[:, None], np.arange(n_times) / 256
    noise = hashed(f"signal{window}", n_chans * n_times).reshape(n_chans, n_times)
    sines = ((20.0, 9 + 0.3 * c), (15.0, 5 + 0.2 * c), (5.0, 18 + 0.5 * c))
    return sum((a * np.sin(2 * np.pi * f * t) for a, f in sines), start=3 * noise)


def scaled(n_chans: int, n_times: int, window: int = 0) -> Tensor:
    """`microvolts` as z-scores made in float64, with a batch axis."""
    x = microvolts(n_chans, n_times, window)
    z = (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True, ddof=1) + 1e-8)
    return torch.from_numpy(z.astype(np.float32))[None]


def hashed_montage(n_chans: int, window: int = 0) -> Montage:
    """Channels at hashed places, called by every seventh (or eleventh) name of the vocabulary."""
    step, first = ((7, 3), (11, 5))[window]
    names = tuple(VOCABULARY[(step * c + first) % 90] for c in range(n_chans))
    return Montage(names, 0.1 * hashed(f"locations{window}", 3 * n_chans).reshape(n_chans, 3))


def run(model: LUNA, z: Tensor, montage: Montage, outputs: tuple[OutputName, ...] = ALL) -> dict[OutputName, Tensor]:
    """Bind and run once."""
    with torch.inference_mode():
        return model(z, model.bind(montage, outputs), outputs)  # type: ignore[no-any-return]


def run_with_intermediates(model: LUNA, z: Tensor, montage: Montage) -> dict[str, Tensor]:
    """All outputs, and what the layers on the way yield."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _args, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    watched = {
        "temporal": model.patch_embed,
        "frequency": model.freq_embed,
        "unified": model.cross_attn,
        "block 0": model.blocks[0],
    }
    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    seen |= {str(name): output for name, output in run(model, z, montage).items()}
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        binding = model.bind(montage)
        seen |= {"location": binding.location, "channel tokens": model.tokenize(z, binding)}
    return seen


def assert_golden(found: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    """Mean, standard deviation, first five and last value agree (they are printed to six digits)."""
    values = found.double().flatten().numpy()
    np.testing.assert_allclose(values.mean(), expected["mean"], rtol=0, atol=tolerance + 5e-7)
    np.testing.assert_allclose(values.std(), expected["std"], rtol=0, atol=tolerance + 5e-7)
    np.testing.assert_allclose(values[: len(expected["first"])], expected["first"], rtol=0, atol=tolerance + 5e-7)
    if expected["last"] is not None:
        np.testing.assert_allclose(values[-1], expected["last"], rtol=0, atol=tolerance + 5e-7)


def golden_input(variant: str, case: str) -> tuple[Tensor, Montage]:
    """Signal and montage of a row of the golden table."""
    n_chans, n_times = (22, 1280) if variant == "base" or case == "tueg22" else (5, 200)
    if case == "tueg22":
        return scaled(n_chans, n_times), make_montage(TUEG22.split())
    window = int(case == "second")
    return scaled(n_chans, n_times, window), hashed_montage(n_chans, window)


# ---- Golden values ---------------------------------------------------------------------------------------------------


def test_spectra_are_parted_alike_on_every_device() -> None:
    """To the bit, signs of zeros included: a negative one would turn the phase at DC from pi to -pi."""
    rows = torch.from_numpy(hashed("spectra", 2 * 7 * 40)).float().reshape(2, 7, 40)
    spectrum = torch.fft.rfft(torch.cat((rows, -rows.abs(), torch.zeros(2, 1, 40)), dim=1))
    edges = spectrum[..., [0, -1]].real
    spectrum[..., [0, -1]] = torch.complex(edges, torch.full_like(edges, -0.0))
    of_product = luna.product_of_parts(spectrum, luna.FrequencyEmbed(64, 40).bind())
    for found, expected in zip(of_product, luna.parts(spectrum), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for _, imag in (of_product, luna.parts(spectrum)):
        assert not imag[:, [0, -1]].signbit().any()


def test_the_hash_is_the_one_the_golden_values_were_made_with() -> None:
    """Weights, signal and positions start with the values published beside the golden ones."""
    np.testing.assert_allclose(
        hashed("norm.weight", 3), [-0.513917145319283, -0.95035849371925, 0.685339059215039], rtol=1e-14
    )
    weight = hashed_tensor("blocks.0.attn.qkv_proj.weight", torch.Size((192, 64)))
    np.testing.assert_allclose(weight[0, :3], [-0.0404, -0.0584, 0.1993], atol=5e-5)
    np.testing.assert_allclose(microvolts(22, 1280)[0, :3], [2.17356905, 8.65559474, 18.62515287], atol=5e-9)
    np.testing.assert_allclose(scaled(22, 1280)[0, 0, :3], [0.11491068, 0.4709629, 1.0185823], atol=1e-7)
    np.testing.assert_allclose(hashed_montage(5).ch_pos[0], [-0.07190208, 0.0354405, 0.06422191], atol=5e-9)


@pytest.mark.parametrize(("variant", "case"), [(variant, case) for variant in GOLDEN for case in GOLDEN[variant]])
def test_every_tensor_equals_the_original_code(variant: str, case: str) -> None:
    """Every golden tensor of every variant is met, alone in its batch."""
    z, montage = golden_input(variant, case)
    found = run_with_intermediates(network(variant), z, montage)
    for name, expected in GOLDEN[variant][case].items():
        assert_golden(found[name], expected, TOLERANCE.get(name, 5e-5))


@pytest.mark.parametrize("variant", ["tiny", "base"])
def test_float64_meets_the_golden_values_to_their_last_digit(variant: str) -> None:
    """With float64 weights only the float32 rounding of the original remains, so nothing hides in the tolerance."""
    z, montage = golden_input(variant, "hashed")
    model = LUNA(network(variant).config).double()
    model.load_state_dict(network(variant).state_dict())
    found = run_with_intermediates(model.eval(), z.double(), montage)
    for name in ("location", "attention", "tokens", "reconstruction", "logits"):
        assert_golden(found[name], GOLDEN[variant]["hashed"][name], 3e-6)


@pytest.mark.parametrize(
    ("labels", "crc"),
    [
        (TUEG22, 0xB09C708F),
        (TUEG22.removesuffix(" A1-T3 T4-A2"), 0xC72ECF91),
        (SIENA29, 0xC36E6067),
        (SEED62, 0x01995017),
    ],
    ids=["TUEG22", "TUEG20", "SIENA29", "SEED62"],
)
def test_scaled_locations_equal_the_original_bit_for_bit(labels: str, crc: int) -> None:
    """The float32 steps before the sines leave no bit to chance, on every montage of the training."""
    ch_pos = torch.tensor(make_montage(labels.split()).ch_pos, dtype=torch.float32)
    assert zlib.crc32(luna.scale_locations(ch_pos).numpy().astype("<f4").tobytes()) == crc


# ---- Inference -------------------------------------------------------------------------------------------------------


def test_a_batch_equals_its_epochs_one_by_one() -> None:
    """No epoch of a batch touches another."""
    model, montage = network("base"), make_montage(TUEG22.split())
    windows = [scaled(22, 1280, window) for window in (0, 1, 2)]
    together = run(model, torch.cat(windows), montage)
    alone = [run(model, window, montage) for window in windows]
    for name in ALL:
        torch.testing.assert_close(together[name], torch.cat([one[name] for one in alone]), rtol=0, atol=2e-5)
    assert (together["embedding"][0] - together["embedding"][1]).abs().max() > 0.01


def test_the_order_of_channels_does_not_matter() -> None:
    """Shuffled channels shuffle reconstruction and attention and change nothing else."""
    model, montage, z = network("base"), make_montage(TUEG22.split()), scaled(22, 1280)
    order = np.random.default_rng(1).permutation(22)
    shuffled = Montage(tuple(montage.ch_names[i] for i in order), montage.ch_pos[order])
    expected, found = run(model, z, montage), run(model, z[:, order], shuffled)
    expected["reconstruction"] = expected["reconstruction"][:, order]
    expected["attention"] = expected["attention"][..., order]
    for name in ALL:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-5)


def test_outputs_are_as_documented_and_only_the_asked_ones_are_computed() -> None:
    """Each output is what its documentation says, and what is not asked for is neither returned nor computed."""
    model, (z, montage) = network("tiny"), golden_input("tiny", "hashed")
    found = run(model, z, montage)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    assert shapes == {
        "embedding": (1, 64),
        "tokens": (1, 5, 64),
        "logits": (1, 4),
        "reconstruction": (1, 5, 200),
        "attention": (1, 5, 2, 5),
    }
    torch.testing.assert_close(found["embedding"], found["tokens"].mean(1))
    torch.testing.assert_close(found["attention"].sum(-1), torch.ones(1, 5, 2))
    touched: list[str] = []
    for name in ("decoder_head", "classifier"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: touched.append(name))
    found = run(model, z, montage, ("embedding", "attention"))
    assert set(found) == {"embedding", "attention"}
    assert not touched


def test_encode_takes_and_gives_microvolts() -> None:
    """`encode` is the float64 z-score, the network, and the way back to microvolts."""
    model, (z, montage) = network("tiny"), golden_input("tiny", "hashed")
    x = torch.from_numpy(microvolts(5, 200)[None] + 100.0)
    with torch.inference_mode():
        prepared, mean, std = model.prepare(x.float())
        encoded = model.encode(x.float(), model.bind(montage, ALL), ALL)
    torch.testing.assert_close(prepared, z, rtol=0, atol=1e-5)
    expected = run(model, z, montage)
    torch.testing.assert_close(encoded["reconstruction"], expected["reconstruction"] * std + mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(encoded["tokens"], expected["tokens"], rtol=0, atol=1e-4)


def test_bfloat16_stays_close_to_float32() -> None:
    """Under autocast to bfloat16 outputs stay within 2 % of float32 (4 % for the four logits)."""
    model, montage, z = network("base"), make_montage(TUEG22.split()), scaled(22, 1280)
    exact = run(model, z, montage)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = run(model, z, montage)
    for name in ALL:
        error = (reduced[name].float() - exact[name]).square().mean().sqrt()
        limit = 0.04 if name == "logits" else 0.02
        assert error < limit * exact[name].square().mean().sqrt(), name


def test_convolutions_are_the_matrices_they_are_run_as() -> None:
    """Each of the three, on patches of hashed numbers, yields what its matrix does, position by position."""
    embed = network("tiny").patch_embed
    convolutions = [layer for layer in embed.proj_in if isinstance(layer, torch.nn.Conv2d)]
    for convolution, (weight, bias) in zip(convolutions, embed.bind(), strict=True):
        n_maps = convolution.in_channels
        rows = torch.from_numpy(hashed("rows", 7 * weight.shape[1])).float().reshape(7, 1, -1, n_maps)
        expected = convolution(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(rows.flatten(1) @ weight.T + bias, expected, rtol=0, atol=1e-6)


def test_what_is_folded_into_the_unifier_is_the_attention_of_the_paper() -> None:
    """Its queries read normalised keys and values as torch's own multi-head attention does, scores and all."""
    unifier = LUNA(TINY).double().cross_attn
    unifier.load_state_dict(network("tiny").cross_attn.state_dict())
    ours, theirs = unifier.cross_attention, torch.nn.MultiheadAttention(32, 2, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.from_numpy(hashed("tokens", 3 * 5 * 32)).reshape(3, 5, 32)
    queries = unifier.queries_norm(unifier.query_embed).expand(3, -1, -1)
    with torch.no_grad():
        read, attention = theirs(queries, unifier.keys_norm(tokens), unifier.values_norm(tokens))
        expected = unifier.query_self_attn["layers"](unifier.ffn(read) + read)
        found, scores = unifier(tokens, unifier.bind())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(scores.mean(2), attention, rtol=0, atol=1e-14)


def test_positions_turn_pairs_as_complex_numbers() -> None:
    """Each pair of numbers is turned by its frequency times its position, in the layer's own frequencies."""
    freqs = torch.tensor([[1.0, 0.1], [0.5, 0.3]], dtype=torch.float64)
    x = torch.from_numpy(hashed("pairs", 2 * 3 * 4)).reshape(2, 3, 4)
    for layer, turn in enumerate(luna.turns(freqs, 3)):
        spin = torch.polar(torch.ones(3, 2).double(), torch.arange(3)[:, None] * freqs[layer])
        expected = torch.view_as_real(torch.view_as_complex(x.reshape(2, 3, 2, 2)) * spin).flatten(-2)
        torch.testing.assert_close(luna.rotate(x, turn), expected, rtol=0, atol=1e-15)


def test_a_flat_channel_is_zero_whatever_its_offset() -> None:
    """Rounding of the mean does not blow up a channel without a signal; its mean is the offset."""
    x = torch.full((1, 1, 1279), 187_500.3)
    z, mean, std = LUNA.prepare(x)
    assert (z == 0).all()
    assert (mean == x[..., :1]).all()
    assert std == 0


@pytest.mark.parametrize("flat", [[2], [0, 1, 2, 3, 4]])
def test_flat_channels_give_finite_numbers(flat: list[int]) -> None:
    """A dead electrode, or a dead cap, at any offset yields finite outputs."""
    x = microvolts(5, 200).astype(np.float32)
    x[flat] = 187_500.3
    model = network("tiny")
    with torch.inference_mode():
        found = model.encode(torch.from_numpy(x)[None], model.bind(hashed_montage(5), ALL), ALL)
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_one_channel_is_enough() -> None:
    """A single electrode, whose range of positions is zero, is a valid montage."""
    assert run(network("tiny"), scaled(1, 200), make_montage(["Cz"]))["tokens"].isfinite().all()


# ---- Contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_times", [0, 199, 1281])
def test_windows_of_broken_patches_are_refused(n_times: int) -> None:
    """A length that is no multiple of the patch is an error that names a duration that works."""
    with pytest.raises(
        ContractError, match=rf"{n_times} samples are not: choose a multiple of 0.15625 s .* such as 5.0 s"
    ):
        run(network("tiny"), torch.zeros(1, 5, n_times), hashed_montage(5))


def test_channels_other_than_the_bound_ones_are_refused() -> None:
    """Epochs with another number of channels than the binding are an error."""
    with pytest.raises(ContractError, match="bound to 5 channels, not 4"):
        run(network("tiny"), torch.zeros(1, 4, 200), hashed_montage(5))


def test_channels_without_a_place_are_refused_by_name() -> None:
    """No position is ever guessed."""
    with pytest.raises(ContractError, match="where EXG1, EXG2 sits"):
        network("tiny").bind(make_montage(["Cz", "EXG1", "EXG2"]), {"embedding"})


def test_outputs_without_a_head_are_refused() -> None:
    """Asking a checkpoint for what it has no head for, or a binding for what it was not made for, is an error."""
    encoder = load(luna.random_state(replace(TINY, has_decoder=False), 0))
    assert encoder.available_outputs == ("embedding", "tokens", "attention")
    with pytest.raises(ContractError, match="no head for logits, reconstruction"):
        encoder.bind(hashed_montage(5), ALL)
    model, z = network("tiny"), torch.zeros(1, 5, 200)
    with pytest.raises(ContractError, match="bound without the reconstruction"):
        model(z, model.bind(hashed_montage(5), {"tokens"}), ("reconstruction",))


def test_vocabulary_matters_to_the_reconstruction_alone() -> None:
    """A channel outside the vocabulary can be embedded, and to reconstruct it one of two opt-ins is needed."""
    model, montage, z = network("tiny"), make_montage(["Fp1", "AFz"]), scaled(2, 200)
    assert run(model, z, montage, ("embedding",))["embedding"].isfinite().all()
    with pytest.raises(ContractError, match=r"vocabulary lacks AFz.*alias.*none"):
        model.bind(montage, {"reconstruction"})
    binding = model.bind(montage, {"reconstruction"}, vocabulary="none")
    assert model(z, binding, ("reconstruction",))["reconstruction"].shape == z.shape


def test_aliases_read_new_temporal_names_as_the_trained_ones() -> None:
    """With `alias`, T7, P8 and T7-C3 use the rows of T3, T6 and T3-C3."""
    assert VOCABULARY.index("T3") == 76
    assert luna.vocabulary_rows(["T7", "P8", "T7-C3"], "alias") == luna.vocabulary_rows(["T3", "T6", "T3-C3"], "strict")
    assert luna.vocabulary_rows(["T7", "P8"], "strict") == [86, 67]
    with pytest.raises(ContractError, match="vocabulary lacks T7-C3"):
        luna.vocabulary_rows(["T7-C3"], "strict")


def test_an_unknown_vocabulary_policy_is_refused() -> None:
    """A misspelt policy is an error, not a default."""
    policy: Any = "aliases"
    with pytest.raises(ConfigError, match="use one of strict, alias, none"):
        network("tiny").bind(hashed_montage(5), {"reconstruction"}, vocabulary=policy)


def test_untrained_rows_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Names that training never saw are warned of, once per binding, and trained ones are not."""
    with caplog.at_level(logging.WARNING, logger=luna.__name__):
        luna.vocabulary_rows(TUEG22.split() + SIENA29.split(), "strict")
        assert not caplog.records
        luna.vocabulary_rows(["Cz", "FCz", "T7"], "strict")
    assert [record.getMessage() for record in caplog.records] == [
        "LUNA never saw FCz, T7 in training: their reconstruction means little"
    ]


def test_the_vocabulary_is_the_published_one() -> None:
    """Names sit at the rows the embedding table was trained with."""
    rows = "47 34 78 83 50 36 81 85 77 6 23 10 46 28 7 61 49 30 9 63 0 80"
    assert luna.vocabulary_rows(TUEG22.split(), "strict") == [int(row) for row in rows.split()]
    rows = "45 48 27 5 60 55 33 76 82 38 42 15 19 37 54 22 75 29 8 62 56 35 79 84 39 43 16 20 25"
    assert luna.vocabulary_rows(SIENA29.split(), "strict") == [int(row) for row in rows.split()]
    assert set(VOCABULARY) == {*TUEG22.split(), *SIENA29.split(), *SEED62.split()}
    assert len(VOCABULARY) - len(luna.TRAINED) == 39


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def published(config: LunaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the published files, written down from the original code."""
    d, e, head = config.embed_dim, config.embed_dim * config.n_queries, config.embed_dim // 2
    shapes: dict[str, tuple[int, ...]] = {"mask_token": (1, 1, d)}

    def affine(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def attention(name: str, width: int) -> None:
        shapes.update({f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)})
        affine(f"{name}.out_proj", width, width)

    def mlp(name: str, width: int, hidden: int, out: int) -> None:
        affine(f"{name}.fc1", hidden, width)
        affine(f"{name}.fc2", out, hidden)

    affine("patch_embed.proj_in.0", d // 4, 1, 1, 19)
    for i in (1, 4, 7):
        affine(f"patch_embed.proj_in.{i}", d // 4)
    for i in (3, 6):
        affine(f"patch_embed.proj_in.{i}", d // 4, d // 4, 1, 3)
    mlp("freq_embed.frequency_to_embed", 42, 168, d)
    mlp("channel_location_embedder.0", d, 2 * d, d)
    affine("channel_location_embedder.0.norm", 2 * d)
    shapes |= {"cross_attn.query_embed": (1, config.n_queries, d), "cross_attn.temparature": ()}
    attention("cross_attn.cross_attention", d)
    mlp("cross_attn.ffn", d, 4 * d, d)
    affine("cross_attn.ffn.norm", 4 * d)
    for norm in ("keys_norm", "values_norm", "queries_norm"):
        affine(f"cross_attn.{norm}", d)
    for layer in [f"cross_attn.query_self_attn.layers.{i}" for i in range(3)] + ["decoder_head.decoder_pred.layers.0"]:
        attention(f"{layer}.self_attn", d)
        affine(f"{layer}.linear1", 4 * d, d)
        affine(f"{layer}.linear2", d, 4 * d)
        affine(f"{layer}.norm1", d)
        affine(f"{layer}.norm2", d)
    for i in range(config.depth):
        affine(f"blocks.{i}.norm1", e)
        affine(f"blocks.{i}.norm2", e)
        shapes[f"blocks.{i}.attn.rotary_emb.freqs"] = (head // 2,)
        affine(f"blocks.{i}.attn.qkv_proj", 3 * e, e)
        affine(f"blocks.{i}.attn.proj", e, e)
        mlp(f"blocks.{i}.mlp", e, 4 * e, e)
        affine(f"blocks.{i}.mlp.norm", 4 * e)
    affine("norm", e)
    attention("decoder_head.decoder_pred.layers.0.multihead_attn", d)
    affine("decoder_head.decoder_pred.layers.0.norm3", d)
    affine("decoder_head.norm", d)
    mlp("decoder_head.decoder_linear", d, 4 * d, 40)
    shapes["channel_emb.embeddings.weight"] = (90, d)
    if config.n_classes:
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(("decoder_head", "channel_emb"))}
        shapes["classifier.learned_agg"] = (1, 1, e)
        attention("classifier.decoder_attn", e)
        mlp("classifier.decoder_ffn", e, 4 * e, config.n_classes)
    return shapes


@pytest.mark.parametrize(
    ("variant", "n_tensors", "n_params", "n_params_with_2_classes", "n_params_per_class"),
    [
        ("base", 224, 6_672_417, 7_101_499, 1025),
        ("large", 254, 40_660_337, 43_113_579, 2305),
        ("huge", 464, 303_769_569, 311_812_667, 4097),
    ],
)
def test_tensors_are_those_of_the_published_files(
    variant: str, n_tensors: int, n_params: int, n_params_with_2_classes: int, n_params_per_class: int
) -> None:
    """Names, shapes and counts are the published ones, so files load strictly and without renaming."""
    pretrained = VARIANTS[variant]
    classifier = replace(pretrained, n_classes=2, has_decoder=False)
    for config, count in ((pretrained, n_tensors), (classifier, n_tensors - 16)):
        manifest = {key: tuple(shape) for key, shape in luna.manifest(config).items()}
        assert manifest == published(config)
        assert len(manifest) == count
    with torch.device("meta"):
        assert LUNA(pretrained).n_params == n_params
        assert LUNA(classifier).n_params == n_params_with_2_classes
        assert LUNA(replace(classifier, n_classes=3)).n_params == n_params_with_2_classes + n_params_per_class


@pytest.mark.parametrize("variant", ["tiny", "base", "large", "huge"])
@pytest.mark.parametrize("n_classes", [0, 3])
def test_sizes_are_read_off_the_tensors(variant: str, n_classes: int) -> None:
    """A checkpoint needs no configuration file beside it."""
    config = replace(CONFIGS[variant], n_classes=n_classes, has_decoder=not n_classes)
    with torch.device("meta"):
        assert LunaConfig.from_state(LUNA(config).state_dict()) == config
    assert luna.variant_name(config) == ("luna-custom" if variant == "tiny" else f"luna-{variant}")


def test_the_head_count_is_read_off_the_rotary_frequencies() -> None:
    """Two networks that differ in nothing but their heads are told apart, and compute different things."""
    two, four = luna.random_state(TINY, 0), luna.random_state(replace(TINY, n_heads=4), 0)
    assert {k for k in two if two[k].shape != four[k].shape} == {f"blocks.{i}.attn.rotary_emb.freqs" for i in (0, 1)}
    assert (LunaConfig.from_state(two).n_heads, LunaConfig.from_state(four).n_heads) == (2, 4)
    z, montage = golden_input("tiny", "hashed")
    outputs: tuple[OutputName, ...] = ("tokens",)
    difference = run(load(two), z, montage, outputs)["tokens"] - run(load(four), z, montage, outputs)["tokens"]
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "model._orig_mod."])
def test_prefixes_of_trainers_are_dropped(prefix: str) -> None:
    """A Lightning, DDP or compiled checkpoint loads like the published file, its metrics left aside."""
    state = luna.random_state(TINY, 0)
    wrapped = {prefix + key: tensor for key, tensor in state.items()} | {"criterion.weight": torch.ones(2)}
    assert luna.rename_keys(wrapped) == state


def test_files_of_braindecode_load_without_the_norms_it_lacks() -> None:
    """Braindecode's names are translated, and the two norms its network lacks are not expected."""
    config = replace(TINY, n_classes=3, has_decoder=False, location_norm=False, ffn_norm=False)
    theirs = luna.random_state(config, 0)
    for ours, name in (("embedder.0.", "embedder."), ("temparature", "temperature"), ("classifier.", "final_layer.")):
        theirs = {key.replace(ours, name): tensor for key, tensor in theirs.items()}
    model = load(theirs)
    assert model.config == config
    assert luna.variant_name(replace(VARIANTS["base"], n_classes=3, ffn_norm=False)) == "luna-base"


@pytest.mark.parametrize(
    ("key", "replacement", "message"),
    [
        ("cross_attn.query_embed", None, r"not the weights of a LUNA.*cross_attn.query_embed"),
        ("blocks.0.attn.rotary_emb.freqs", None, r"not the weights of a LUNA.*rotary_emb.freqs"),
        ("blocks.0.attn.rotary_emb.freqs", torch.ones(5), "heads 10 wide do not divide tokens 32 wide"),
        ("blocks.1.norm1.weight", torch.ones(63), r"blocks.1.norm1.weight has shape \(63,\) .* needs \(64,\)"),
        ("mask_token", torch.ones(32), r"mask_token has shape \(32,\) .* needs \(1, 1, 32\)"),
        ("cross_attn.query_embed", torch.ones(1, 2, 0), "not the weights of a LUNA"),
        ("blocks.0.mlp.fc1.weight", torch.ones(0, 0), "not the weights of a LUNA"),
        ("freq_embed.frequency_to_embed.fc1.weight", torch.ones(4, 3), "not the weights of a LUNA"),
        ("classifier.decoder_ffn.fc2.weight", torch.ones(()), "not the weights of a LUNA"),
    ],
)
def test_other_weights_are_refused_in_a_sentence(key: str, replacement: Tensor | None, message: str) -> None:
    """A file of another model, or one whose shapes contradict each other, is refused by the tensor at fault."""
    state = luna.random_state(TINY, 0)
    state.pop(key, None)
    if replacement is not None:
        state[key] = replacement
    with pytest.raises(WeightsError, match=message):
        LunaConfig.from_state(state)


def test_random_weights_are_reproducible_and_behave() -> None:
    """A seed gives the same bits everywhere; untrained outputs are finite, vary in time and tell epochs apart."""
    state = luna.random_state(TINY, 7)
    drawn = [tensor.numpy().astype("<f4").tobytes() for tensor in state.values() if tensor.ndim > 1]
    assert zlib.crc32(b"".join(drawn)) == 1483856844
    assert not torch.equal(state["mask_token"], luna.random_state(TINY, 8)["mask_token"])
    model, montage = load(luna.random_state(replace(VARIANTS["base"], n_classes=2), 0)), make_montage(TUEG22.split())
    found = run(model, torch.cat([scaled(22, 1280, window) for window in (0, 1)]), montage)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["embedding"].std() > 0.1
    assert found["tokens"].std(1).mean() > 0.03
    assert found["reconstruction"].std(-1).min() > 0.01
    assert (found["embedding"][0] - found["embedding"][1]).std() > 0.01
    assert found["attention"].std(-1).mean() > 0.001
