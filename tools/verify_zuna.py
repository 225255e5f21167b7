"""Checks ZUNA v1's real weights on its authors' sample recording against what zuna-rs published of it, row by row.

    python tools/verify_zuna.py sample1_raw.fif --weights model-00001-of-00001.safetensors

The recording is in https://github.com/Zyphra/zuna (tutorial data), the weights in https://huggingface.co/Zyphra/ZUNA;
without `--weights` those of the hub are taken. What is published of reconstructions was drawn from other noise, so only
their likeness to the recording is checked. Exit code 1 tells that a row failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from streamnode.errors import StreamnodeError
from streamnode.models import catalog
from streamnode.models.zuna import Zuna, from_tokens, to_tokens
from streamnode.models.zuna_prepare import prepare
from streamnode.sources.replay import Recording, read
from streamnode.types import Float64Array, OutputName

Figures = Mapping[str, Float64Array]
"""What was computed, by the name of its row."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a row is to be.

    Attributes:
        values: as published, or a single limit for all that was computed.
        tolerance: absolute.
        how: whether values are to be met, or not to be fallen short of, or not to be exceeded.
    """

    values: Sequence[float]
    tolerance: float = 0.0
    how: Literal["equal", "at least", "at most"] = "equal"

    def allows(self, found: Float64Array) -> bool:
        """Whether what was computed is as published."""
        match self.how:
            case "equal":
                wanted = np.array(self.values)
                return found.shape == wanted.shape and bool((np.abs(found - wanted) <= self.tolerance).all())
            case "at least":
                return bool((found >= self.values[0]).all())
            case "at most":
                return bool((found <= self.values[0]).all())


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    found: Float64Array
    expected: Expected

    @property
    def passed(self) -> bool:
        """Whether what was computed is as published."""
        return self.expected.allows(self.found)

    def __str__(self) -> str:
        what, wanted = self.expected, _short(np.array(self.expected.values))
        limit = f"{wanted} +- {what.tolerance:.0e}" if what.how == "equal" else f"{what.how} {wanted}"
        return f"{'pass' if self.passed else 'FAIL'}  {self.name:40} {_short(self.found):>45}  published: {limit}"


# ---- What is published -----------------------------------------------------------------------------------------------

_PREPARED = 1e-6  # of the preprocessing, in standard deviations: the digits that are published
_NEAR = 1e-4  # of a network behind a preprocessing of its own

PREPARED: dict[str, Expected] = {
    "standard deviation of the recording, uV": Expected([6.547199300249313], 1e-6),
    "epoch 0, prepared: std": Expected([0.8345420501], _PREPARED),
    "epoch 1, prepared: std": Expected([1.0285385954], _PREPARED),
    "epoch 2, prepared: std": Expected([1.1040300727], _PREPARED),
    "epoch 0, prepared: min, max": Expected([-3.4931, 4.3103], 1e-4),
    "epoch 1, prepared: min, max": Expected([-4.2253, 4.8893], 1e-4),
    "epoch 2, prepared: min, max": Expected([-4.6051, 4.4880], 1e-4),
    "epoch 0, prepared: Fp1": Expected([-0.02072231, 0.42572172, 0.97841376, 0.65004454, 0.00515424], _PREPARED),
    "epoch 1, prepared: Fp1": Expected([-0.09943189, -0.1592271, -0.14700928, -0.19223451, -0.36217958], _PREPARED),
    "epoch 2, prepared: Fp1": Expected([0.84116312, 0.57306451, 1.2879733, 1.9699595, 1.36144193], _PREPARED),
}
EMBEDDED: dict[str, Expected] = {
    "epoch 0, latents: mean, std, min, max": Expected([0.038751, 0.854594, -2.902462, 3.425748], _NEAR),
    "epoch 1, latents: mean, std, min, max": Expected([0.049869, 0.861472, -3.219625, 3.506631], _NEAR),
    "epoch 2, latents: mean, std, min, max": Expected([0.046256, 0.864090, -3.021092, 3.034606], _NEAR),
    "epoch 0, latents: norm": Expected([106.023303], 1e-2),
    "epoch 1, latents: norm": Expected([106.945715], 1e-2),
    "epoch 2, latents: norm": Expected([107.244698], 1e-2),
    "epoch 0, latents: first row": Expected(
        [0.5375424, -0.6079625, -0.1213887, 0.9462978, -0.7145513, 1.2882512, -0.3304740, -0.5817460], _NEAR
    ),
    "epoch 1, latents: first row": Expected(
        [0.0476616, -0.2312802, 0.3246089, 1.0700841, -0.3265075, 0.2783589, 0.2765287, 0.2796458], _NEAR
    ),
    "epoch 2, latents: first row": Expected(
        [0.8974900, -0.7807585, 0.0517245, 0.1565229, -0.2505498, -0.1110555, -0.1332784, 0.6295740], _NEAR
    ),
    "epoch 0, latents: last row": Expected([-1.0012586, 0.2873863, 0.4333039, 1.4797088], _NEAR),
    "epoch 1, latents: last row": Expected([-0.1234023, 0.0360059, -0.2062239, 1.7430502], _NEAR),
    "epoch 2, latents: last row": Expected([-1.5839945, -0.4390667, 0.9395722, 2.1797395], _NEAR),
    "all latents: mean, std": Expected([0.0449585, 0.8600737], _NEAR),
    "all latents: mean of each dimension": Expected(
        [
            *(-0.377, 0.2076, 0.2837, 0.3514, -0.0021, 0.5775, -0.5087, 0.4681, -0.2746, -0.1534, -0.2207, -0.2607),
            *(-0.1943, 0.7661, -0.0552, -0.2291, -0.412, 0.0382, -0.3153, 0.3231, -0.118, 0.4542, -0.2606, 0.355),
            *(-0.1839, 0.3901, 0.8079, 0.0109, -0.3126, -0.1337, 0.186, 0.2307),
        ],
        2e-4,
    ),
    "all latents: std of each dimension": Expected(
        [
            *(0.6895, 0.7946, 0.8302, 0.6819, 0.6159, 0.7057, 0.6475, 0.7527, 0.8349, 0.8825, 0.9203, 0.6616),
            *(0.9923, 0.9006, 0.6827, 0.7065, 0.8264, 0.7503, 0.7715, 0.7367, 0.9647, 0.9087, 0.6837, 0.8614),
            *(0.6336, 0.8393, 0.8048, 0.7497, 0.686, 0.7795, 0.9431, 0.7277),
        ],
        2e-4,
    ),
}
DRAWN: dict[str, Expected] = {
    **{f"epoch {i}, drawn: correlation": Expected([0.998], how="at least") for i in range(3)},
    **{f"epoch {i}, drawn: error, of the power": Expected([0.003], how="at most") for i in range(3)},
}


# ---- What is computed ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def figures(recording: Recording, network: Zuna, *, steps: int, seed: int = 0) -> dict[str, Float64Array]:
    """All that is published, of a recording and a network; without steps nothing of reconstructions."""
    scaled = prepare(recording.data.T.astype(np.float64), recording.info.sfreq, "v1")
    z = 10 * scaled.x.numpy()
    found = {"standard deviation of the recording, uV": scaled.scale[0, 0].numpy() / 10}
    for i, epoch in enumerate(z):
        found[f"epoch {i}, prepared: std"] = np.array([epoch.std()])
        found[f"epoch {i}, prepared: min, max"] = np.array([epoch.min(), epoch.max()])
        found[f"epoch {i}, prepared: Fp1"] = epoch[recording.info.ch_names.index("Fp1"), :5]

    outputs: set[OutputName] = {"tokens", "reconstruction"} if steps else {"tokens"}
    binding = network.bind(recording.info.montage, outputs=outputs, steps=steps or 1, seed=seed)
    patch = network.config.patch
    tokens = to_tokens(scaled.x.to(network.encoder.registers), patch)
    encoded = torch.cat([network.encode_tokens(epoch[None], binding) for epoch in tokens])
    latents = encoded.double().numpy()
    for i, epoch in enumerate(latents):
        found[f"epoch {i}, latents: mean, std, min, max"] = _summary(epoch)
        found[f"epoch {i}, latents: norm"] = np.array([np.linalg.norm(epoch)])
        found[f"epoch {i}, latents: first row"] = epoch[0, :8]
        found[f"epoch {i}, latents: last row"] = epoch[-1, -4:]
    rows = latents.reshape(-1, latents.shape[-1])
    found["all latents: mean, std"] = _summary(rows)[:2]
    found["all latents: mean of each dimension"] = rows.mean(axis=0)
    found["all latents: std of each dimension"] = rows.std(axis=0)
    if not steps:
        return found

    assert binding.noise is not None
    start = to_tokens(binding.noise[None, :, : z.shape[2]], patch)
    for i, (known, epoch) in enumerate(zip(z, encoded, strict=True)):
        drawn = 10 * from_tokens(network.sample(epoch[None], start, binding), len(known))[0].double().numpy()
        found[f"epoch {i}, drawn: correlation"] = np.corrcoef(known.ravel(), drawn.ravel())[:1, 1]
        found[f"epoch {i}, drawn: error, of the power"] = ((drawn - known) ** 2).mean(keepdims=True)[0] / known.var()
    return found


def compare(found: Figures, expected: Mapping[str, Expected]) -> Iterator[Row]:
    """A row for everything that is expected; what was not computed fails."""
    for name, what in expected.items():
        yield Row(name, found.get(name, np.array([np.nan])), what)


def _summary(values: Float64Array) -> Float64Array:
    return np.array([values.mean(), values.std(), values.min(), values.max()])


def _short(values: Float64Array) -> str:
    """At most four numbers."""
    return " ".join(f"{value:.6g}" for value in values[:4]) + (" ..." if len(values) > 4 else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a row failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="sample1_raw.fif")
    parser.add_argument("--weights", default="hub", help="of v1, a safetensors file")
    parser.add_argument("--steps", type=int, default=50, help="of the sampler; 0 leaves reconstructions out")
    asked = parser.parse_args(arguments)
    try:
        recording = read(asked.file)
        network = catalog.load("zuna-v1", asked.weights).model
        assert isinstance(network, Zuna)
        found = figures(recording, network, steps=asked.steps)
    except StreamnodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = list(compare(found, PREPARED | EMBEDDED | (DRAWN if asked.steps else {})))
    print(*rows, sep="\n")
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} rows as published")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
