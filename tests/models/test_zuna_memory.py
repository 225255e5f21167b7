"""What ZUNA's weights take of memory: the promises of 2.2 GB in float32 and 1.3 GB in bfloat16, on a smaller file.

A process of its own loads a file of three layers of sixteen, uses it, and tells what it took. Where that is the weights
once and 100 MB, the published sizes take 1.53 GB in float32 or 0.76 GB in bfloat16, these 100 MB, and a quarter of a GB
of interpreter and libraries. `tools/bench_zuna.py` measures the published sizes themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from safetensors.torch import save_file

from streamnode.models import zuna
from streamnode.models.zuna_flow import ZunaConfig

SIZES = ZunaConfig("1.1", encoder_depth=3, decoder_depth=3)
ALLOWED = 100 << 20  # pieces of the file that were begun, and the network's intermediate results

_LOAD_AND_TELL = """
import json, sys
from pathlib import Path
import torch
from streamnode.models import catalog, zuna
from streamnode.models.zuna_flow import ZunaConfig
from streamnode.montage import make_montage

def memory(line):
    (found,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(line)]
    return 1024 * int(found.split()[1])

path, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
zuna.VARIANTS["1.1"] = ZunaConfig("1.1", encoder_depth=3, decoder_depth=3)
montage, outputs = make_montage(["Fp1", "Fp2", "C3", "C4"]), frozenset({"embedding", "reconstruction"})
torch.ones(64, 64) @ torch.ones(64, 64)  # what torch makes for itself at the first product
Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
before = memory("VmRSS:")
model = catalog.load("zuna-1.1", str(path)).model
loaded = memory("VmRSS:") - before
with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
    for weight in model.parameters():
        if weight.ndim == 2 and min(weight.shape) >= 128:  # norms and the like stay as they are
            weight.data = weight.data.to(dtype)
    binding = model.bind(montage, outputs=outputs, steps=1)
    results = model.encode(torch.randn(1, 4, 320), binding, outputs, bad=[1])
assert all(bool(array.isfinite().all()) for array in results.values())
print(json.dumps({
    "loaded": loaded,
    "highest": memory("VmHWM:") - before,
}))
"""


class Taken(TypedDict):
    """Bytes above what interpreter and libraries take."""

    loaded: int
    highest: int


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return zuna.random_state(SIZES, 0)


@pytest.fixture(scope="module")
def payload(state: dict[str, torch.Tensor]) -> int:
    """Bytes in float32."""
    return 4 * sum(tensor.numel() for tensor in state.values())


@pytest.fixture(scope="module")
def file(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "zuna.safetensors"
    save_file(state, path)
    return path


def taken(path: Path, dtype: str) -> Taken:
    command = [sys.executable, "-c", _LOAD_AND_TELL, str(path), dtype]
    told: Taken = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=50).stdout)
    return told


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the highest a process ever took")


def test_float32_is_in_memory_once(file: Path, payload: int) -> None:
    """Weights come into memory as they are used, and no second copy of them ever does."""
    bytes_taken = taken(file, "float32")
    assert bytes_taken["loaded"] < ALLOWED
    assert payload < bytes_taken["highest"] < payload + ALLOWED


def test_a_cast_never_holds_both(file: Path, payload: int) -> None:
    """With its matrices cast to bfloat16, half the file's size is taken, and not much more on the way there."""
    bytes_taken = taken(file, "bfloat16")
    assert payload / 2 < bytes_taken["highest"] < payload / 2 + ALLOWED


def test_a_file_of_bfloat16_widens_tensor_by_tensor(
    state: dict[str, torch.Tensor], payload: int, tmp_path: Path
) -> None:
    """A file in half the precision takes no more in float32 than one in float32 does."""
    save_file({key: tensor.bfloat16() for key, tensor in state.items()}, tmp_path / "half.safetensors")
    assert taken(tmp_path / "half.safetensors", "float32")["highest"] < payload + ALLOWED
