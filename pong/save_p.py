"""The weights of the 2016 program in its own file, ``save.p``: a pickle of W1 and W2.

A pickle can name any function to be called. This reads one without calling any of those that it names: what NumPy's
arrays name is replaced by functions of this module, and everything else is refused.

Source: Karpathy 2016, gist pg-pong.py, ``pickle.dump(model, open('save.p', 'wb'))``.
"""

import contextlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pong.config import InputError
from pong.observations import PIXELS

BEGINS = (b"(d", b"}", b"\x80")  # of a pickled dictionary: protocols 0, 1, and all later ones
ENTRIES = ("W1", "W2")


def is_pickle(path: Path) -> bool:
    """Whether a file looks like a pickle of a dictionary."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(2).startswith(BEGINS)
    return False


def read(path: Path) -> dict[str, torch.Tensor]:
    """W1 (hidden, 6400) and W2 (hidden,), float32, of a file that Python 2 or 3 has written with any protocol.

    Raises:
        InputError: it can't be read, or holds anything else.
    """
    try:
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError(f"import: {path} can't be read: {error.strerror}") from None
    except Exception as error:  # whatever a broken or hostile pickle meets
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"import: {path} is no pickle of W1 and W2 alone ({what}); nothing in it was run") from None
    return _checked(path, found)


def write(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """The reverse: a file that the 2016 program can read, with Python 2 or 3 and any NumPy.

    Raises:
        OSError: it can't be written.
    """
    model = {name: np.ascontiguousarray(weights[name].double().numpy()) for name in ENTRIES}
    content = pickle.dumps(model, protocol=2)  # the newest that Python 2 knows
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core.", 1))  # NumPy 2's name of it; told once


def _checked(path: Path, found: object) -> dict[str, torch.Tensor]:
    """Raises an InputError that says what was found, if it is not the two arrays."""
    if not isinstance(found, dict) or set(found) != set(ENTRIES):
        what = f"entries {', '.join(map(str, found))}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise InputError(f"import: {path} holds {what}, not W1 and W2")
    W1, W2 = found["W1"], found["W2"]
    if not (isinstance(W1, np.ndarray) and isinstance(W2, np.ndarray)):
        raise InputError(f"import: {path} holds {type(W1).__name__} and {type(W2).__name__}, not two arrays")
    if W1.ndim != 2 or W1.shape[1] != PIXELS or W2.shape != W1.shape[:1] or not len(W2):
        raise InputError(f"import: {path} holds W1 {W1.shape} and W2 {W2.shape}, not (hidden, {PIXELS}) and (hidden,)")
    if not (np.isfinite(W1).all() and np.isfinite(W2).all()):
        raise InputError(f"import: {path}: a weight is NaN or infinite")
    return {name: torch.from_numpy(found[name].astype(np.float32)) for name in ENTRIES}


def _reconstruct(kind: str, shape: object, dtype: object) -> NDArray[Any]:
    """An empty array, which the pickle fills next, whatever size it asks for."""
    return np.empty(0, np.int8)


def _dtype(name: str, *_: object) -> "np.dtype[Any]":
    """A floating type, which the pickle gives its byte order next."""
    if name not in ("f2", "f4", "f8"):
        raise pickle.UnpicklingError(f"an array of {name!r}")
    return np.dtype(name, align=False, copy=True)  # one of its own, since it is changed


def _from_buffer(buffer: bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...], order: str) -> NDArray[Any]:
    """An array, as protocol 5 has it."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 tells them to Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Knows what NumPy's arrays name, and nothing else."""

    KNOWN: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy", "ndarray"): "ndarray",  # which can't be called
        ("numpy", "dtype"): _dtype,
        ("_codecs", "encode"): _encode,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle calls by these names.

        Raises:
            UnpicklingError: it is nothing that an array needs.
        """
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.KNOWN[module, name]
