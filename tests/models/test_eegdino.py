"""Promises of `streamnode.models.eegdino`.

The golden values were computed in float64 by two independent implementations (one of them braindecode 1.8.1) that agree
to 1e-14, on weights and signals that a hash makes out of names and indices.
"""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models import eegdino
from streamnode.models.eegdino import SLOTS, VARIANTS, EegDino, EegDinoConfig, Pool
from streamnode.montage import make_montage
from streamnode.types import Montage, OutputName
from tests.models.fill import filled, uniform

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "eegdino.json").read_text("utf-8"))
TINY = EegDinoConfig(maps=(8, 8, 8), groups=4, depth=3, hidden=96)
CONFIGS = {"tiny": TINY, **VARIANTS}
TINY_METADATA = {"groups": "4"}
ALL: tuple[OutputName, ...] = ("embedding", "tokens", "logits")
State = dict[str, Tensor]


def shapes_of_braindecode(config: EegDinoConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that braindecode publishes, written down from its file format."""
    (c1, c2, c3), d, hidden = config.maps, config.width, config.hidden
    shapes: dict[str, tuple[int, ...]] = {"global_tokens": (1, config.n_global_tokens, d)}

    def affine(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    for i, shape in ((0, (c1, 1, 1, 49)), (3, (c2, c1, 1, 3)), (6, (c3, c2, 1, 3))):
        affine(f"patch_embedding.proj_in.{i}", *shape)
        affine(f"patch_embedding.proj_in.{i + 1}", shape[0])
    affine("patch_embedding.spectral_proj.0", d, 101)
    affine("patch_embedding.channel_embedding", d, 19)
    affine("patch_embedding.time_encoding.0", d, 1, 1, 5)
    for i in range(config.depth):
        layer = f"encoder_layers.{i}"
        shapes |= {f"{layer}.attn.{name}_bias": (d,) for name in "qv"} | {f"{layer}.attn.qkv.weight": (3 * d, d)}
        affine(f"{layer}.attn.proj", d, d)
        affine(f"{layer}.norm1", d)
        affine(f"{layer}.norm2", d)
        affine(f"{layer}.mlp.fc1", hidden, d)
        affine(f"{layer}.mlp.fc2", d, hidden)
    if config.n_classes:
        affine("final_layer.token_proj.0", d, d)
        affine("final_layer.time_proj.0", d, d)
        affine("final_layer.classifier.0", d // 2, d)
        affine("final_layer.classifier.3", d // 4, d // 2)
        affine("final_layer.classifier.6", config.n_classes, d // 4)
    return shapes


@lru_cache(maxsize=1)
def filled_state(variant: str) -> State:
    """The float64 weights of the golden values, with a head of four classes."""
    config = replace(CONFIGS[variant], n_classes=4)
    return eegdino.rename_keys(filled(shapes_of_braindecode(config), plain=frozenset({"global_tokens"})))


def build(config: EegDinoConfig, state: State) -> EegDino:
    """Load a state as the loader does: no tensor missing, none left over, none copied."""
    with torch.device("meta"):
        model = EegDino(config)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def golden_network(variant: str, n_heads: int = 8) -> EegDino:
    """A variant in float64 with the weights of the golden values."""
    return build(replace(CONFIGS[variant], n_heads=n_heads, n_classes=4), filled_state(variant))


def float32_network(variant: str = "tiny") -> EegDino:
    """The same in float32; the float64 one is left alone."""
    state = {key: tensor.float() for key, tensor in filled_state(variant).items()}
    return build(replace(CONFIGS[variant], n_classes=4), state)


def signal(*shape: int) -> Tensor:
    """The input of the golden values, float64, microvolts / 100."""
    return torch.from_numpy(uniform("input", shape))


def first_slots(n_chans: int) -> Montage:
    """The first electrodes of the training."""
    return make_montage(SLOTS[:n_chans])


def run(
    model: EegDino, z: Tensor, outputs: tuple[OutputName, ...] = ALL, *, montage: Montage | None = None, **options: Any
) -> dict[OutputName, Tensor]:
    """Bind and run once, on the first electrodes of the training unless told others."""
    with torch.inference_mode():
        binding = model.bind(montage or first_slots(z.shape[1]), outputs=frozenset(outputs), **options)
        return model(z, binding, frozenset(outputs))  # type: ignore[no-any-return]


def nrmse(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error over that of the expectation."""
    return float((found.double() - expected).norm() / expected.norm())


# ---- Golden values ---------------------------------------------------------------------------------------------------


def run_with_intermediates(model: EegDino, z: Tensor) -> dict[str, Tensor]:
    """All outputs, and what the layers on the way yield."""
    seen: dict[str, Tensor] = {"input": z}
    patches = z.reshape(*z.shape[:2], -1, 200)
    watched: list[tuple[nn.Module, Callable[..., None]]] = [
        (model.patch_embedding, lambda _module, _args, output: seen.update({"patches": output})),
        (model.encoder_layers[1], lambda _module, args, _output: seen.update({"layer 1": args[0]})),
    ]
    hooks = [module.register_forward_hook(hook) for module, hook in watched]
    seen |= {str(name): output for name, output in run(model, z).items()}
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        seen["time"] = model.patch_embedding.embed_time(patches)
        spectral = model.patch_embedding.spectral_proj[0]
        weight, spectral.weight = spectral.weight, nn.Parameter(torch.eye(101).to(z), requires_grad=False)
        seen["magnitudes"] = model.patch_embedding.embed_spectrum(patches)
        spectral.weight = weight
    return seen


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row['variant']}-{row['n_heads']}-{row['shape']}") for row in GOLDEN]
)
def test_every_tensor_equals_the_golden_values(row: dict[str, Any]) -> None:
    """In float64 every statistic and every printed element is met to 1e-9, beyond what rounding to print took away."""
    found = run_with_intermediates(golden_network(row["variant"], row["n_heads"]), signal(*row["shape"]))
    for name, expected in row["tensors"].items():
        tensor = found[name]
        values = tensor.flatten().numpy()
        for statistic in {"mean", "std"} & set(expected):
            np.testing.assert_allclose(getattr(np, statistic)(values), expected[statistic], rtol=0, atol=1e-9)
        np.testing.assert_allclose(values[: len(expected["first"])], expected["first"], rtol=0, atol=6e-9)
        if "last" in expected:
            np.testing.assert_allclose(values[-len(expected["last"]) :], expected["last"], rtol=0, atol=6e-9)
        if "at" in expected:
            index, value = expected["at"]
            np.testing.assert_allclose(tensor[tuple(index)], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("variant", "shape"), [("tiny", (2, 5, 600)), ("small", (1, 19, 1000))])
def test_float32_stays_within_a_millionth(variant: str, shape: tuple[int, ...]) -> None:
    """The precision that nodes run in is the golden one but for rounding."""
    z = signal(*shape)
    exact, found = run(golden_network(variant), z), run(float32_network(variant), z.float())
    for name in ALL:
        assert found[name].dtype == torch.float32
        assert nrmse(found[name], exact[name]) < 1e-6, name
        assert (found[name] - exact[name]).abs().max() < 5e-5


# ---- Inference -------------------------------------------------------------------------------------------------------


def test_a_batch_equals_its_epochs_one_by_one() -> None:
    """No epoch of a batch touches another, the norms over all patches included."""
    model, z = golden_network("tiny"), signal(3, 5, 600)
    together, alone = run(model, z), [run(model, epoch[None]) for epoch in z]
    for name in ALL:
        torch.testing.assert_close(together[name], torch.cat([one[name] for one in alone]), rtol=0, atol=1e-12)
    assert (together["embedding"][0] - together["embedding"][1]).abs().max() > 0.01


@pytest.mark.parametrize(("n_global_tokens", "global_token_layer"), [(1, 1), (3, 2), (2, 3)])
def test_the_embedding_alone_is_the_same_as_among_all_outputs(n_global_tokens: int, global_token_layer: int) -> None:
    """What the last layer spares itself for the global tokens changes nothing, wherever these join."""
    config = replace(TINY, n_global_tokens=n_global_tokens, global_token_layer=global_token_layer)
    model = build(config, eegdino.random_state(config, 3)).double()
    z = signal(2, 5, 600)
    full, alone = run(model, z, ("embedding", "tokens")), run(model, z, ("embedding",))
    assert set(alone) == {"embedding"}
    torch.testing.assert_close(alone["embedding"], full["embedding"], rtol=0, atol=1e-13)
    torch.testing.assert_close(full["embedding"], full["tokens"][:, :n_global_tokens].mean(1))


def test_the_last_layer_spares_itself_what_the_embedding_does_not_need() -> None:
    """Asked for the global token alone, the last MLP sees one row, and otherwise all."""
    rows: list[int] = []
    model = golden_network("tiny")
    model.get_submodule("encoder_layers.2.mlp").register_forward_hook(
        lambda _m, args, _o: rows.append(args[0].shape[1])
    )
    for outputs in (("embedding",), ("embedding", "tokens")):
        run(model, signal(1, 5, 600), outputs)
    assert rows == [1, 16]


@pytest.mark.parametrize("duration_s", [1, 5, 10])
def test_tokens_are_the_global_one_then_channel_by_channel(duration_s: int) -> None:
    """An epoch of any whole number of seconds gives a token per channel and second, and every pool reads these."""
    model, z = golden_network("tiny"), signal(2, 19, 200 * duration_s)
    tokens = run(model, z, ("tokens",))["tokens"]
    assert tokens.shape == (2, 1 + 19 * duration_s, 64)
    by_channel = tokens[:, 1:].reshape(2, 19, duration_s, 64)
    expected: dict[Pool, Tensor] = {
        "global": tokens[:, 0],
        "mean": tokens[:, 1:].mean(1),
        "per_channel": by_channel.mean(2),
        "per_patch": by_channel.mean(1),
    }
    for pool, embedding in expected.items():
        torch.testing.assert_close(run(model, z, pool=pool)["embedding"], embedding)
        torch.testing.assert_close(run(model, z, ("embedding",), pool=pool)["embedding"], embedding)


def test_encode_takes_microvolts() -> None:
    """The network is fed microvolts / 100, whatever else is known of the epoch."""
    model, z = golden_network("tiny"), signal(2, 5, 600)
    with torch.inference_mode():
        encoded = model.encode(100 * z, model.bind(first_slots(5), outputs={"tokens"}), {"tokens"})
    torch.testing.assert_close(encoded["tokens"], run(model, z)["tokens"], rtol=0, atol=1e-12)


def test_silence_gives_finite_numbers() -> None:
    """Dead electrodes, one or all, are no reason for NaN."""
    for z in (torch.zeros(1, 19, 1000), signal(1, 19, 1000).float().index_fill(1, torch.tensor(3), 0)):
        assert all(tensor.isfinite().all() for tensor in run(float32_network(), z).values())


def test_bfloat16_stays_close_to_float32() -> None:
    """Under autocast to bfloat16 outputs stay within 2 % of float32, and are summed up in float32."""
    model, z = float32_network("small"), signal(1, 19, 1000).float()
    exact = run(model, z)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = run(model, z)
    for name in ALL:
        assert nrmse(reduced[name], exact[name].double()) < 0.02, name
    assert reduced["tokens"].dtype == torch.float32


# ---- Channels --------------------------------------------------------------------------------------------------------


def test_slots_are_in_the_order_of_the_training() -> None:
    """The 19 electrodes sit where CBraMod's preparation of the corpus put them."""
    expected = "FP1 FP2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T3 T4 T5 T6 FZ CZ PZ"
    assert eegdino.find_slots(expected.split()) == list(range(19))


@given(st.lists(st.sampled_from(range(19)), unique=True), st.randoms(use_true_random=False))
def test_channels_keep_their_slots_however_picked_and_spelt(picked: list[int], random: Any) -> None:
    """Any electrodes in any order, case and generation of names are found where they were trained."""
    new = {old: name for name, old in eegdino.ALIASES.items()}
    names = [random.choice([SLOTS[i], SLOTS[i].title(), new.get(SLOTS[i], SLOTS[i]).lower()]) for i in picked]
    assert eegdino.find_slots(names) == picked


def test_a_subset_of_channels_uses_its_own_embeddings() -> None:
    """Absent electrodes contribute no tokens, and those present keep what was learned for them."""
    model = golden_network("tiny")
    weight, bias = (model.patch_embedding.channel_embedding.get_parameter(name) for name in ("weight", "bias"))
    offsets = model.bind(make_montage(["Pz", "Fp1", "T7"]), outputs={"tokens"}).offsets
    spectral_bias = model.patch_embedding.get_parameter("spectral_proj.0.bias")
    torch.testing.assert_close(offsets, weight[:, [18, 0, 12]].T + bias + spectral_bias)
    subset = run(model, signal(1, 3, 400), ("tokens",), montage=make_montage(["Pz", "Fp1", "T7"]))["tokens"]
    assert subset.shape == (1, 7, 64)
    assert (subset - run(model, signal(1, 3, 400), ("tokens",))["tokens"]).abs().max() > 0.01


def test_the_order_of_channels_does_not_matter() -> None:
    """Shuffled channels shuffle their tokens and change nothing else."""
    model, z = golden_network("tiny"), signal(1, 19, 400)
    order = np.random.default_rng(1).permutation(19)
    expected = run(model, z)
    found = run(model, z[:, order], montage=make_montage([SLOTS[i] for i in order]))
    for name in ("embedding", "logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    tokens = expected["tokens"][:, 1:].reshape(1, 19, 2, 64)[:, order].flatten(1, 2)
    torch.testing.assert_close(found["tokens"][:, 1:], tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ch_names", "message"),
    [
        (["Cz", "Oz", "AF3"], r"never saw Oz, AF3: leave out all but FP1 .* PZ with signal.picks"),
        (["Fp1-F7"], "never saw Fp1-F7"),
        (["T3", "Cz", "T7"], "T3, T7 share a place.*pick one with signal.picks"),
        (["Cz", "CZ"], "Cz, CZ share a place"),
        ([*SLOTS, "A1"], "never saw A1"),
        ([*SLOTS, "T7"], "T3, T7 share a place"),
    ],
)
def test_channels_that_have_no_slot_are_refused_by_name(ch_names: list[str], message: str) -> None:
    """A channel that training never saw, a second one on its slot, or a twentieth, and what to do about it."""
    montage = Montage(tuple(ch_names), np.full((len(ch_names), 3), np.nan))
    with pytest.raises(ContractError, match=message):
        golden_network("tiny").bind(montage, outputs={"tokens"})


def test_weights_with_fewer_slots_take_fewer_electrodes() -> None:
    """A network that was trained on the first four electrodes refuses the fifth."""
    config = replace(TINY, n_slots=4)
    model = build(config, eegdino.random_state(config, 0))
    with pytest.raises(ContractError, match="never saw C3: leave out all but FP1 FP2 F3 F4 with"):
        model.bind(first_slots(5), outputs={"tokens"})


# ---- Contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_times", [0, 199, 950])
def test_windows_of_broken_seconds_are_refused(n_times: int) -> None:
    """A length that is no whole number of seconds is an error that names one that is; nothing is ever padded."""
    with pytest.raises(ContractError, match=rf"{n_times} samples are not: choose a whole number .* such as 5.0 s"):
        run(float32_network(), torch.zeros(1, 5, n_times))


def test_channels_other_than_the_bound_ones_are_refused() -> None:
    """Epochs with another number of channels than the binding are an error."""
    with pytest.raises(ContractError, match="bound to 5 channels, not 4"):
        run(float32_network(), torch.zeros(1, 4, 200), montage=first_slots(5))


def test_outputs_without_a_head_are_refused() -> None:
    """Asking an encoder for logits is an error, and what is not asked for is neither returned nor computed."""
    encoder = build(TINY, eegdino.random_state(TINY, 0))
    assert encoder.available_outputs == ("embedding", "tokens")
    with pytest.raises(ContractError, match="no head for logits"):
        encoder.bind(first_slots(5), outputs=frozenset(ALL))
    model = golden_network("tiny")
    assert model.available_outputs == ALL
    model.classifier.register_forward_hook(lambda *_: pytest.fail("nobody asked for logits"))
    assert set(run(model, signal(1, 5, 200), ("embedding", "tokens"))) == {"embedding", "tokens"}


def test_an_unknown_pool_is_refused() -> None:
    """A misspelt pool is an error, not a default."""
    pool: Any = "cls"
    with pytest.raises(ConfigError, match="use one of global, mean, per_channel, per_patch"):
        float32_network().bind(first_slots(5), outputs={"embedding"}, pool=pool)


# ---- Checkpoints -----------------------------------------------------------------------------------------------------

HEAD = {"full_linear": "token_proj.0", "channel_linear": "time_proj.0", "classifier": "classifier"}


def prefixed(state: State, encoder: str) -> State:
    """The encoder's tensors behind a prefix, the head's without."""
    return {key if key.split(".")[0] in HEAD else encoder + key: tensor for key, tensor in state.items()}


def as_original(state: State, *, student: str = "student", teacher: str = "teacher") -> State:
    """A pre-training: two networks, and what only training needs."""
    other = {key: -tensor for key, tensor in state.items()}
    return {
        **{f"module.{teacher}.{key}": tensor for key, tensor in other.items()},
        **{f"module.{student}.{key}": tensor for key, tensor in state.items()},
        "module.mask_projector.0.weight": torch.ones(2, 2),
        "module.dino_loss.center": torch.ones(1, 2),
        f"module.{student}.encoder_layers.0.attn.relative_position_index": torch.ones(2, 2, dtype=torch.int64),
    }


def as_braindecode(state: State) -> State:
    """The library's own names of the head."""
    renamed = {}
    for key, tensor in state.items():
        root, _, rest = key.partition(".")
        renamed[f"final_layer.{HEAD[root]}.{rest}" if root in HEAD else key] = tensor
    return renamed


def as_burn(state: State) -> State:
    """Eegdino-rs: layers by name, linear weights transposed."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if "proj_in" in parts:
            number = int(parts[2])
            parts[2] = f"{'norm' if number % 3 else 'conv'}{number // 3 + 1}"
        elif {"spectral_proj", "time_encoding"} & set(parts):
            del parts[2]
        renamed[".".join(parts)] = tensor.T.contiguous() if tensor.ndim == 2 else tensor
    return renamed


@pytest.mark.parametrize(
    ("form", "n_classes", "published"),
    [
        ("original", 0, as_original),
        ("fine-tuned", 4, lambda state: prefixed(state, "encoder.")),
        ("fine-tuned", 4, lambda state: {f"module.{k}": v for k, v in prefixed(state, "encoder.").items()}),
        ("braindecode", 4, as_braindecode),
        ("eegdino-rs burn", 0, as_burn),
        ("eegdino-rs burn", 4, as_burn),
        ("canonical", 0, dict),
        ("canonical", 4, dict),
        (
            "canonical",
            4,
            lambda state: {f"model.{key}": tensor for key, tensor in state.items()} | {"loss": torch.ones(1)},
        ),
    ],
)
def test_every_published_form_gives_the_same_bits(
    form: str, n_classes: int, published: Callable[[State], State]
) -> None:
    """Each form is told from the others, and the same weights come out of all, none missing, none left over."""
    config = replace(TINY, n_classes=n_classes)
    state = eegdino.random_state(config, 1)
    theirs = published(state)
    assert eegdino.form_of(theirs) == form
    ours = eegdino.rename_keys(theirs)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[key], tensor) and ours[key].is_contiguous() for key, tensor in state.items())
    assert EegDinoConfig.from_state(ours, metadata=TINY_METADATA) == config


def test_student_and_teacher_are_told_apart() -> None:
    """A pre-training yields the network that was asked for, and says so when it has none."""
    state = eegdino.random_state(TINY, 1)
    original = as_original(state)
    teacher = eegdino.rename_keys(original, "teacher")
    assert teacher.keys() == state.keys()
    assert all(torch.equal(teacher[key], -tensor) for key, tensor in state.items())
    alone = {key: tensor for key, tensor in original.items() if "teacher" not in key}
    with pytest.raises(WeightsError, match="hold no teacher: ask for the other"):
        eegdino.rename_keys(alone, "teacher")


def test_only_the_head_of_braindecode_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The classifier in braindecode's files was never trained, which nobody would guess; other heads were."""
    state = eegdino.random_state(replace(TINY, n_classes=2), 0)
    with caplog.at_level(logging.WARNING, logger=eegdino.__name__):
        eegdino.rename_keys(state)
        eegdino.rename_keys(as_burn(state))
        assert not caplog.records
        eegdino.rename_keys(as_braindecode(state))
    assert ["classifier that was never trained" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("variant", "n_tensors", "n_params", "n_params_of_4_classes"),
    [
        ("tiny", 58, 96_944, 10_996),
        ("small", 175, 4_433_944, 105_754),
        ("medium", 227, 33_755_456, 690_052),
        ("large", 331, 201_908_864, 2_756_356),
    ],
)
def test_tensors_are_those_of_the_published_files(
    variant: str, n_tensors: int, n_params: int, n_params_of_4_classes: int
) -> None:
    """Names, shapes and counts are the published ones, so that files load strictly."""
    encoder = CONFIGS[variant]
    classifier = replace(encoder, n_classes=4)
    for config, count in ((encoder, n_tensors), (classifier, n_tensors + 10)):
        expected = {key: torch.empty(shape, device="meta") for key, shape in shapes_of_braindecode(config).items()}
        renamed = {key: tensor.shape for key, tensor in eegdino.rename_keys(expected).items()}
        assert eegdino.manifest(config) == renamed
        assert len(renamed) == count
    with torch.device("meta"):
        assert EegDino(encoder).n_params == n_params
        assert EegDino(classifier).n_params == n_params + n_params_of_4_classes


@pytest.mark.parametrize(("variant", "n_bytes"), [("small", 18_176_552), ("medium", 137_804_752)])
def test_files_have_the_published_size(variant: str, n_bytes: int) -> None:
    """Braindecode's files, written with two classes, are as long as these tensors need."""
    header: dict[str, object] = {}
    end = 0
    shapes = shapes_of_braindecode(replace(VARIANTS[variant], n_classes=2))
    for name, shape in sorted(shapes.items()):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    assert 8 + 8 * math.ceil(len(json.dumps(header, separators=(",", ":"))) / 8) + end == n_bytes


@pytest.mark.parametrize("variant", ["small", "medium", "large"])
@pytest.mark.parametrize("n_classes", [0, 3])
def test_sizes_are_read_off_the_tensors(variant: str, n_classes: int) -> None:
    """A published checkpoint needs no configuration file beside it."""
    config = replace(VARIANTS[variant], n_classes=n_classes)
    with torch.device("meta"):
        assert EegDinoConfig.from_state(EegDino(config).state_dict()) == config
    assert eegdino.variant_name(replace(config, n_heads=2)) == f"eegdino-{variant}"
    assert eegdino.variant_name(replace(config, depth=3)) == "eegdino-custom"


def test_what_no_shape_shows_is_read_off_the_metadata() -> None:
    """Sizes that nobody published load with the metadata that state the rest."""
    config = replace(TINY, n_heads=4, n_global_tokens=2, global_token_layer=2, n_slots=21)
    metadata = {"groups": "4", "num_heads": "4", "global_token_layer": "2", "sha256": "0"}
    assert EegDinoConfig.from_state(eegdino.random_state(config, 0), metadata=metadata) == config


@pytest.mark.parametrize(
    ("asked", "metadata", "n_heads", "why"),
    [
        (None, {}, 8, "default"),
        (None, {"num_heads": "16"}, 16, "metadata"),
        (4, {"num_heads": "16"}, 4, "asked"),
        ("eegdino_rs", {"num_heads": "4"}, 16, "eegdino-rs"),
    ],
)
def test_the_number_of_heads_is_chosen_openly(
    asked: int | Literal["eegdino_rs"] | None,
    metadata: dict[str, str],
    n_heads: int,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was asked for goes before what the file states, and that before the default; the log says which and why."""
    with torch.device("meta"):
        state = EegDino(VARIANTS["medium"]).state_dict()
    with caplog.at_level(logging.INFO, logger=eegdino.__name__):
        assert EegDinoConfig.from_state(state, n_heads=asked, metadata=metadata).n_heads == n_heads
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the weights are eegdino-medium with {n_heads} heads (")
    assert why in record.getMessage()


@pytest.mark.parametrize(("variant", "n_heads"), [("small", 8), ("medium", 16), ("large", 16)])
def test_eegdino_rs_has_its_own_numbers_of_heads(variant: str, n_heads: int) -> None:
    """For parity with that port there is one word for all sizes."""
    with torch.device("meta"):
        state = EegDino(VARIANTS[variant]).state_dict()
    assert EegDinoConfig.from_state(state, n_heads="eegdino_rs").n_heads == n_heads
    with pytest.raises(ConfigError, match="no network whose tokens are 64 wide: give the number of heads"):
        EegDinoConfig.from_state(eegdino.random_state(TINY, 0), n_heads="eegdino_rs", metadata=TINY_METADATA)


@pytest.mark.parametrize("n_heads", [0, -8, 7, 16])
def test_heads_that_do_not_divide_the_width_are_refused(n_heads: int) -> None:
    """A number of heads that the small size cannot have is an error, also where a file states it."""
    with torch.device("meta"):
        state = EegDino(VARIANTS["small"]).state_dict()
    message = f"200 wide cannot have {n_heads} heads: give a number that divides"
    with pytest.raises(ConfigError, match=message):
        EegDinoConfig.from_state(state, n_heads=n_heads)
    with pytest.raises(ConfigError, match=message):
        EegDinoConfig.from_state(state, metadata={"num_heads": str(n_heads)})
    with pytest.raises(ConfigError, match=message):
        replace(VARIANTS["small"], n_heads=n_heads)


@pytest.mark.parametrize(
    ("key", "replacement", "message"),
    [
        ("global_tokens", None, r"not the weights of an EEG-DINO.*global_tokens"),
        ("global_tokens", torch.ones(64), "not the weights of an EEG-DINO"),
        ("patch_embedding.proj_in.3.weight", None, r"not the weights of an EEG-DINO.*proj_in.3.weight"),
        ("patch_embedding.proj_in.0.weight", torch.ones(()), "not the weights of an EEG-DINO"),
        ("classifier.6.weight", torch.ones(()), "not the weights of an EEG-DINO"),
        ("patch_embedding.proj_in.3.weight", torch.ones(9, 8, 1, 3), "4 groups are known for convolutions 8, 9 and 8"),
        ("encoder_layers.0.mlp.fc1.weight", None, r"not the weights of an EEG-DINO.*fc1.weight"),
        ("encoder_layers.1.norm1.weight", torch.ones(63), r"norm1.weight has shape \(63,\) .* needs \(64,\)"),
        ("patch_embedding.spectral_proj.0.weight", torch.ones(101, 64), r"\(101, 64\) .* needs \(64, 101\)"),
    ],
)
def test_other_weights_are_refused_in_a_sentence(key: str, replacement: Tensor | None, message: str) -> None:
    """A file of another model, or one whose shapes contradict each other, is refused by the tensor at fault."""
    state = eegdino.random_state(TINY, 0)
    state.pop(key, None)
    if replacement is not None:
        state[key] = replacement
    with pytest.raises(WeightsError, match=message):
        EegDinoConfig.from_state(state, metadata=TINY_METADATA)


def test_an_unpublished_width_needs_its_groups_stated() -> None:
    """What no shape shows is never guessed for sizes that nobody published."""
    with pytest.raises(WeightsError, match=r"no groups are known for convolutions 8, 8 and 8.*state the groups"):
        EegDinoConfig.from_state(eegdino.random_state(TINY, 0))


@pytest.mark.parametrize("read", [eegdino.form_of, eegdino.rename_keys, eegdino.detect_heads])
def test_weights_of_other_models_are_refused(read: Callable[[State], object]) -> None:
    """A file of something else is said to be just that."""
    with pytest.raises(WeightsError, match="not the weights of an EEG-DINO, or not all of them"):
        read({"blocks.0.attn.proj.weight": torch.ones(2, 2)})


def test_random_weights_are_reproducible_and_behave() -> None:
    """A seed gives the same bits everywhere; untrained outputs are finite and tell epochs apart."""
    state = eegdino.random_state(TINY, 7)
    drawn = [tensor.numpy().astype("<f4").tobytes() for tensor in state.values() if tensor.ndim > 1]
    assert zlib.crc32(b"".join(drawn)) == 243216209
    assert not torch.equal(state["global_tokens"], eegdino.random_state(TINY, 8)["global_tokens"])
    config = replace(VARIANTS["small"], n_classes=2)
    found = run(build(config, eegdino.random_state(config, 0)), signal(2, 19, 1000).float())
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["embedding"].std() > 0.1
    assert found["tokens"].std(1).mean() > 0.03
    assert (found["embedding"][0] - found["embedding"][1]).std() > 0.01


# ---- How many heads? -------------------------------------------------------------------------------------------------


def with_heads(n_heads: int, noise: float, width: int = 128, depth: int = 3) -> State:
    """Attention weights in which queries mix like keys and values like projections, within each head alone."""
    generator = torch.Generator().manual_seed(n_heads)
    head, state = width // n_heads, {}

    def mixed(mixing: Tensor) -> Tensor:
        directions = torch.randn(n_heads, head // 2, width, generator=generator)
        return (mixing @ directions).flatten(0, 1) + noise * torch.randn(width, width, generator=generator)

    for i in range(depth):
        inner, outer = torch.randn(2, n_heads, head, head // 2, generator=generator)
        queries, keys, values, projections = (mixed(mixing) for mixing in (inner, inner, outer, outer))
        state[f"encoder_layers.{i}.attn.qkv.weight"] = torch.cat((queries, keys, values))
        state[f"encoder_layers.{i}.attn.proj.weight"] = projections.T
    return state


@pytest.mark.parametrize("noise", [0.3, 5.0])
@pytest.mark.parametrize("n_heads", [2, 4, 8, 16])
def test_the_number_of_heads_is_told_from_the_weights(n_heads: int, noise: float) -> None:
    """Queries and keys that were trained together look alike within a head and not beside it, be it faintly."""
    guess = eegdino.detect_heads(with_heads(n_heads, noise))
    assert guess.n_heads == n_heads
    assert list(guess.correlations) == [2, 4, 8, 16]
    within, between = guess.correlations[n_heads]
    assert within > 0.3
    assert abs(between) < 0.15


def test_untrained_weights_do_not_tell_their_heads() -> None:
    """Without training there is nothing to tell, and nothing is told."""
    guess = eegdino.detect_heads(eegdino.random_state(VARIANTS["small"], 0))
    assert guess.n_heads is None
    assert max(abs(value) for pair in guess.correlations.values() for value in pair) < 0.05
