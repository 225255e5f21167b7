"""Plays a recording, or synthetic EEG, over Lab Streaming Layer as if an amplifier were there."""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from streamnode.errors import ConfigError
from streamnode.sinks.lsl import EegOutlet, MarkersOutlet
from streamnode.sources.lsl import local_clock
from streamnode.sources.pacing import Block, Signal, paced
from streamnode.sources.replay import read
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg
from streamnode.types import StreamInfo

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlayReport:
    """What has been played so far.

    Attributes:
        n_times: samples pushed.
        n_markers: markers pushed.
        n_passes: passes over the recording that were begun.
        late_s: the most that a push came after its time, seconds; nothing is left out for being late.
    """

    n_times: int = 0
    n_markers: int = 0
    n_passes: int = 0
    late_s: float = 0.0


async def play(
    signal: Signal,
    *,
    name: str | None = None,
    speed: float = 1.0,
    loop: bool = False,
    duration_s: float | None = None,
    chunk_s: float = 0.02,
    wait_for_consumer: bool = False,
    markers: bool = True,
    linger_s: float = 1.0,
    on_progress: Callable[[PlayReport], None] | None = None,
) -> PlayReport:
    """Publish an EEG stream and, when there are annotations, a stream of markers called `<name>-markers`.

    Sample n is stamped `start + n / sfreq` on the LSL clock, over all passes and whatever the speed; where a recording
    was interrupted, so is the stream. A marker has the stamp of the sample it lies on. When cancelled, the streams
    close at once.

    Args:
        signal: a `Recording` or `SyntheticEeg`.
        name: of the EEG stream; the recording's own by default.
        speed: times real time; stamps keep the recording's spacing and so leave the clock behind at other than 1.
        loop: start again at the end, for ever.
        duration_s: end after so many seconds of the recording.
        chunk_s: seconds of the recording in a push.
        wait_for_consumer: start when someone has connected to the EEG; what is pushed before that is lost to them.
        markers: whether to publish the annotations.
        linger_s: LSL drops what receivers have not taken when a stream closes, and cannot tell whether they have; so at
            the end the streams stay open until the receivers have left, but no longer than this.
        on_progress: called after every push.

    Raises:
        ConfigError: `speed` or `duration_s` is not a finite number above 0.
    """
    if not 0 < speed < math.inf:
        raise ConfigError(f"a live stream cannot be played at speed {speed:g}: give a number above 0, 1 for real time")
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise ConfigError(f"{duration_s:g} seconds cannot be played: give a number above 0, or none to play all")
    info = replace(signal.info, name=name or signal.info.name)
    annotations = signal.annotations if markers else ()
    with EegOutlet(info) as eeg, _events(info) if annotations else nullcontext() as events:
        if wait_for_consumer:
            await _first_consumer(eeg)
        rows = [round(annotation.t_s * info.sfreq) for annotation in annotations]
        report, t0 = PlayReport(), local_clock()
        async for start, block in paced(signal, speed=speed, loop=loop, chunk_s=chunk_s, duration_s=duration_s):
            last, within = start + len(block.data) - 1, _within(rows, block)
            eeg.push(block.data, t0 + last / info.sfreq)
            if events:
                for i in within:
                    events.push(annotations[i].description, t0 + (start + rows[i] - block.row) / info.sfreq)
            late_s = local_clock() - t0 - last / (info.sfreq * speed)
            report = PlayReport(
                n_times=report.n_times + len(block.data),
                n_markers=report.n_markers + len(within),
                n_passes=report.n_passes + (block.row == 0),
                late_s=max(report.late_s, late_s),
            )
            if on_progress:
                on_progress(report)
        await _last_consumer(eeg, linger_s)
    return report


async def play_file(
    file: Path,
    *,
    name: str | None = None,
    speed: float = 1.0,
    loop: bool = False,
    seconds: float | None = None,
    unit: str = "V",
    sfreq: float | None = None,
    n_chans: int = 32,
    wait_for_consumer: bool = False,
) -> PlayReport:
    """Play a file, or synthetic EEG when `file` is the word `synthetic`; arguments as of `play` and `read`.

    Raises:
        ConfigError: the file cannot be read or played so.
    """
    signal: Signal
    if str(file) == "synthetic":
        if not 1 <= n_chans <= len(CH_NAMES_64):
            raise ConfigError(f"synthetic EEG has 1 to {len(CH_NAMES_64)} channels, not {n_chans}: choose among these")
        signal = SyntheticEeg(CH_NAMES_64[:n_chans], 256.0 if sfreq is None else sfreq)
    else:
        signal = read(file, unit=unit, sfreq=sfreq)
    info = signal.info
    _log.info("playing %s: %d channels at %g Hz", name or info.name, info.n_chans, info.sfreq)
    return await play(
        signal, name=name, speed=speed, loop=loop, duration_s=seconds, wait_for_consumer=wait_for_consumer
    )


def _events(info: StreamInfo) -> MarkersOutlet:
    return MarkersOutlet(f"{info.name}-markers", f"{info.source_id}:markers")


def _within(rows: Sequence[int], block: Block) -> range:
    """Which of the ascending rows lie in a block."""
    return range(bisect_left(rows, block.row), bisect_left(rows, block.row + len(block.data)))


async def _first_consumer(eeg: EegOutlet) -> None:
    while not await asyncio.to_thread(eeg.wait_for_consumers, 0.2):  # short: a cancelled thread runs to its end
        pass


async def _last_consumer(eeg: EegOutlet, linger_s: float) -> None:
    deadline = local_clock() + linger_s
    while eeg.have_consumers and local_clock() < deadline:  # noqa: ASYNC110  (liblsl has no event for this)
        await asyncio.sleep(0.02)
