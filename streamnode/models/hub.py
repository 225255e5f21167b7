"""The Hugging Face Hub: its files, found in the cache of earlier downloads or fetched, and why one cannot be had."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from streamnode.errors import WeightsError

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
_USER = re.compile(r"(?<=://)[^/\s]*@")  # and password, in an address


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a model repository of the Hugging Face Hub."""

    repo: str
    filename: str

    def __str__(self) -> str:
        """As `WeightsInfo.source` has it."""
        return f"hub:{self.repo}/{self.filename}"


def cached_path(file: HubFile, revision: str = "main") -> Path | None:
    """Where a file of the hub lies on this machine, if it does; never asks the network."""
    path = try_to_load_from_cache(file.repo, file.filename, revision=revision)
    return Path(path) if isinstance(path, str) else None


def located(file: HubFile, revision: str = "main") -> Path:
    """Where a file of the hub lies on this machine, once it is as new as the hub's, or the hub does not answer.

    Raises:
        WeightsError: it cannot be had.
    """
    cached = cached_path(file, revision)
    if cached is not None and COMMIT.fullmatch(revision):
        return cached
    try:
        return _download(file, revision)
    except (RevisionNotFoundError, RemoteEntryNotFoundError) as error:
        raise WeightsError(_remedy(error, file, revision)) from error
    # The Xet downloader, by which the hub serves large files, raises a bare RuntimeError when it fails.
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as error:
        if cached is None or _lacks_room(error):  # which the hub's file needs only where it is another than ours
            raise WeightsError(_remedy(error, file, revision)) from error
        log.warning("cannot ask %s about revision %s (%s): using %s", _shown(), revision, _reason(error), cached)
        return cached


def _download(file: HubFile, revision: str) -> Path:
    # The metadata first: hf_hub_download would go on for half a minute about a hub that does not answer.
    url = hf_hub_url(file.repo, file.filename, revision=revision, endpoint=_endpoint())
    _check_room(file, get_hf_file_metadata(url))
    return Path(hf_hub_download(file.repo, file.filename, revision=revision, endpoint=_endpoint()))


def _check_room(file: HubFile, metadata: HfFileMetadata) -> None:
    if metadata.size is None or (_cache_folder(file) / "blobs" / str(metadata.etag)).exists():
        return
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if free < metadata.size:
        raise WeightsError(
            f"{file.filename} needs {metadata.size / 1e6:.0f} MB where {cache} has {free / 1e6:.0f} MB free: "
            "make room, or set HF_HUB_CACHE to a folder on another disk"
        )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _shown() -> str:
    """The hub as messages name it, without user and password."""
    return _USER.sub("", _endpoint())


def _lacks_room(error: Exception) -> bool:
    """Whether a download failed since a disk or a quota is full; Xet says so in its own words, around the system's."""
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))


def _cache_folder(file: HubFile) -> Path:
    return Path(constants.HF_HUB_CACHE, f"models--{file.repo.replace('/', '--')}")


def _remedy(error: Exception, file: HubFile, revision: str) -> str:
    page, cache = f"{_shown()}/{file.repo}", constants.HF_HUB_CACHE
    match error:
        case RevisionNotFoundError():
            remedy = f"{page} has no revision {revision!r}: set model.revision to one of its branches, tags or commits"
        case RemoteEntryNotFoundError():
            remedy = f"{page} has no {file.filename} at revision {revision!r}: set model.revision to one that has it"
        case GatedRepoError():
            remedy = f"{page} is gated: accept its terms there, then set HF_TOKEN to a token of your account"
        case RepositoryNotFoundError():
            remedy = (
                f"{page} does not exist or is private: correct HF_ENDPOINT, or set HF_TOKEN to a token that opens it"
            )
        case HfHubHTTPError(response=response) if response.status_code in {401, 403} and get_token():
            remedy = f"{page} refuses your token (HTTP {response.status_code}): renew HF_TOKEN, or unset it"
        case HfHubHTTPError(response=response) if response.status_code in {401, 403}:
            remedy = (
                f"{page} refuses access (HTTP {response.status_code}): set HF_TOKEN to a token that opens it, or have "
                "it let through by the proxy or firewall of this network"
            )
        case OSError(errno=int(), strerror=str(why)):
            remedy = f"{file.filename} cannot be saved in {cache} ({why}): set HF_HUB_CACHE to a folder that has room"
        case RuntimeError() if _lacks_room(error):
            remedy = f"{file.filename} cannot be saved in {cache}, which is full: set HF_HUB_CACHE to one that has room"
        case RuntimeError():
            remedy = f"{page} cannot be downloaded by Xet ({_reason(error)}): set HF_HUB_DISABLE_XET=1 to do without"
        case _:
            place = _cache_folder(file) / "snapshots" / revision / file.filename
            remedy = (
                f"{_shown()} cannot be reached ({_reason(error)}) and {file.filename} is not on this machine: "
                f"copy it to {place}, or set model.weights to its path"
            )
    return remedy


def _reason(error: Exception) -> str:
    match error:
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set"
        case HfHubHTTPError(response=response):
            return f"HTTP {response.status_code}"
        case _:
            return _USER.sub("", str(error).partition("\n")[0]) or type(error).__name__
