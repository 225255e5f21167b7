"""Passes through a compiled package that leave Python's lock to others.

torch's own loader holds the lock for the whole pass: until it ends no sample is read, and no result is sent. What a
package holds is a library with an interface in C (torch/csrc/inductor/aoti_runtime/interface.h), and ctypes lets go of
the lock while it calls one.
"""

from __future__ import annotations

import ctypes
import json
import logging
import warnings
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZipFile

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from streamnode.inference.graphs import one_at_a_time
from streamnode.types import OutputName

if TYPE_CHECKING:
    from streamnode.inference.compiled import Encode

log = logging.getLogger(__name__)

_HELD = b"aoti_torch_proxy_executor_call_function"  # what a library calls that needs torch's loader
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.argtypes, _capsule.restype = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.py_object


def load(path: Path, device: torch.device) -> Encode:
    """What takes `(B, C, T)` on a device to the outputs of a package, by torch's loader where need be, as for a GPU."""
    try:
        return _Library(path)
    except (AttributeError, LookupError, OSError, RuntimeError, ValueError) as error:  # of another torch, or kind
        log.info("passes of %s hold up all else in the process: %s", path.stem, error)
    from torch._inductor import aoti_load_package  # noqa: PLC0415  (seconds)

    with warnings.catch_warnings(action="ignore"):
        if device.type != "cuda":
            return cast("Encode", aoti_load_package(str(path)))
        # What threads share otherwise waits for events, which no recording may.
        on_gpu = aoti_load_package(str(path), run_single_threaded=True, device_index=device.index)
        return one_at_a_time(cast("Encode", on_gpu))


class _Library:
    """The library of a package for a CPU, with the weights in it.

    Args:
        path: of the package, in a folder where code may lie.

    Raises:
        AttributeError: this torch has another interface.
        LookupError: it packs otherwise.
        OSError: the library cannot be loaded.
        RuntimeError: it refuses.
        ValueError: it is for another device, or needs more than its interface gives it.
    """

    def __init__(self, path: Path) -> None:
        self._tensors: Any = torch._C._aoti  # noqa: SLF001  (has no public name)
        with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder, ZipFile(path) as package:
            (name,) = (name for name in package.namelist() if name.endswith(".so"))
            if json.loads(package.read(f"{name.removesuffix('.so')}_metadata.json"))["AOTI_DEVICE_KEY"] != "cpu":
                raise ValueError("it is for a GPU")
            library = Path(package.extract(name, folder))
            if _HELD in library.read_bytes():
                raise ValueError("it has steps that are not compiled")
            self._library = ctypes.CDLL(str(library))
        self._model, n_outputs = ctypes.c_void_p(), ctypes.c_size_t()
        self._call("CreateWithDevice", ctypes.byref(self._model), ctypes.c_size_t(1), b"cpu", None)
        weakref.finalize(self, self._library.AOTInductorModelContainerDelete, self._model).atexit = False
        self._call("GetNumOutputs", self._model, ctypes.byref(n_outputs))
        takes, yields = ctypes.c_char_p(), ctypes.c_char_p()
        self._call("GetCallSpec", self._model, ctypes.byref(takes), ctypes.byref(yields))
        self._n_outputs = n_outputs.value
        self._outputs = pytree.treespec_loads((yields.value or b"").decode())

    def __call__(self, x: Tensor) -> dict[OutputName, Tensor]:
        """One pass. Raises `RuntimeError` in the words of torch."""
        given = (ctypes.c_void_p * 1)(*map(_address, self._tensors.unsafe_alloc_void_ptrs_from_tensors([x])))
        made = (ctypes.c_void_p * self._n_outputs)()
        size = ctypes.c_size_t
        self._call("Run", self._model, given, size(1), made, size(self._n_outputs), None, None)
        outputs = self._tensors.alloc_tensors_by_stealing_from_void_ptrs([_capsule(at, None, None) for at in made])
        return cast("dict[OutputName, Tensor]", pytree.tree_unflatten(outputs, self._outputs))

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, f"AOTInductorModelContainer{name}")(*arguments):
            why = ctypes.c_char_p()
            self._library.AOTInductorGetLastError(ctypes.byref(why))
            raise RuntimeError((why.value or b"the compiled network failed").decode(errors="replace"))


def _address(capsule: object) -> int | None:
    return cast("int | None", _pointer(capsule, None))
