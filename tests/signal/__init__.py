"""The signal path. Here: streams to send down it, cut into chunks and joined again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, pairwise

import numpy as np

from streamnode.montage import make_montage
from streamnode.types import Chunk, FloatArray, ModelSpec, StreamInfo

T0 = 1000.0
SPEC = ModelSpec(
    name="model",
    sfreq=256.0,
    patch=40,
    durations=(5.0,),
    ch_names=None,
    needs_positions=True,
    l_freq=0.1,
    h_freq=75.0,
    notch=True,
    reference="as_recorded",
    scaling="none",
    outputs=("embedding",),
)


def stream(sfreq: float, ch_names: Sequence[str] = ("C3", "Cz", "C4")) -> StreamInfo:
    return StreamInfo("amp", "amp-1", "EEG", sfreq, make_montage(ch_names))


def noise(n_times: int, n_chans: int = 3, seed: int = 0) -> FloatArray:
    """White noise of 20 uV on the offsets of some millivolts that amplifiers have, float32."""
    rng = np.random.default_rng(seed)
    return (20 * rng.standard_normal((n_times, n_chans)) + 5000 * rng.standard_normal(n_chans)).astype(np.float32)


def as_chunk(info: StreamInfo, data: FloatArray, start: int = 0, run: int = 0) -> Chunk:
    """A chunk whose times follow from the index: sample i at `T0 + i / sfreq`."""
    t0 = T0 + start / info.sfreq
    return Chunk(info, data, start, t0, t_arrived=t0 + len(data) / info.sfreq, run=run)


def cut(chunk: Chunk, sizes: Iterable[int]) -> Iterator[Chunk]:
    """The samples of a chunk as chunks of the given sizes, over and over."""
    done = 0
    for size in cycle(sizes):
        part = chunk.data[done : done + size]
        yield as_chunk(chunk.info, part, chunk.start + done, chunk.run)
        done += size
        if done >= chunk.n_times:
            return


def join(chunks: Iterable[Chunk]) -> Chunk:
    """One chunk of many; fails unless indices and times follow each other without a break."""
    parts = [chunk for chunk in chunks if chunk.n_times]
    first = parts[0]
    for before, after in pairwise(parts):
        assert after.start == before.start + before.n_times
        np.testing.assert_allclose(after.t0, before.t_last + 1 / before.info.sfreq, rtol=0, atol=1e-4)
    data = np.concatenate([part.data for part in parts])
    return replace(first, data=data, t_arrived=parts[-1].t_arrived, n_missing=sum(part.n_missing for part in parts))
