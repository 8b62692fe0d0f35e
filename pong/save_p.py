"""The 2016 program's own file, ``save.p``: a pickle of W1 and W2, and what ports of the program save.

A pickle can name any function to be called. Here the calls that NumPy's arrays need are recorded, all others are
refused, and none is made. Source: Karpathy 2016, gist pg-pong.py, ``pickle.dump(model, open('save.p', 'wb'))``.
"""

import gzip
import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pong.config import InputError
from pong.observations import PIXELS

ENTRIES = ("W1", "W2")
MAX_BYTES = 2**28  # 200 hidden units take 10 to 40 MB
MAX_OPCODES = 10_000  # a save.p has about 100; a history of scores in it may have thousands
SLOW = ("LONG4", "EMPTY_SET", "FROZENSET")  # as keys or elements they can take hours, and no array needs them
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes if opcode.name not in SLOW}
NUMPY = r"ndarray|dtype|_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
CALLS = re.compile(rf"numpy\.({NUMPY})|_codecs\.encode|collections\.OrderedDict")


def read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A policy's W1 (6400, hidden) and W2 (hidden,), float32, and the names of all else in the file."""
    try:
        content = _pickled(path)
        _check_size(content)
        model, others = _model(_Unpickler(io.BytesIO(content), encoding="latin1").load())
        W1, W2 = (_tensor(model[name]) for name in ENTRIES)
        W2 = W2.flatten() if W2.numel() in W2.shape else W2  # (hidden, 1) or (1, hidden)
        if W1.shape != (*W2.shape, PIXELS) or W1.ndim != 2 or not len(W1):
            raise ValueError(f"W1 {tuple(W1.shape)} and W2 {tuple(W2.shape)} are not (hidden, {PIXELS}) and (hidden,)")
        if not all(tensor.isfinite().all() for tensor in (W1, W2)):
            raise ValueError("a weight is NaN or infinite")
    except Exception as error:  # a broken or hostile pickle can raise anything
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"import: {path} can't be read as save.p: {message}; nothing in it was executed") from None
    return {"W1": W1.T.contiguous(), "W2": W2}, others


def write(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a policy's weights for the 2016 program, whose W1 is the transpose; for Python 2 or 3 and any NumPy."""
    model = {name: np.ascontiguousarray(weights[name].double().numpy().T) for name in ENTRIES}
    content = pickle.dumps(model, protocol=2)  # the newest that Python 2 knows
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core.", 1))  # NumPy 2's name, pickled once


def _pickled(path: Path) -> bytes:
    """The pickle in a file, which gzip may have compressed; an .npz becomes one."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES)
    if content.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES)
    if not content.startswith(b"PK\x03\x04"):
        return content
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if sum(entry.file_size for entry in arrays.zip.infolist()) > MAX_BYTES:
            raise ValueError("it is incomplete or too large")
        return pickle.dumps({name: arrays[name] if name in ENTRIES else None for name in arrays.files})


def _model(content: Any) -> tuple[dict[str, Any], list[str]]:
    """The dictionary that holds W1 and W2, or the one inside it that does, and the names of all else."""
    outer = {"": content, **(content if isinstance(content, dict) else {})}
    names = [name for name, value in outer.items() if isinstance(value, dict) and value.keys() >= {*ENTRIES}]
    chosen = [name for name in ("", "model") if name in names][:1] or names
    if len(chosen) != 1:
        raise ValueError("its content is not W1 and W2, in one dictionary or in one called 'model'")
    model = outer[chosen[0]]
    return model, [name for name in {**outer, **model} if isinstance(name, str) and name not in ("", *ENTRIES, *chosen)]


def _check_size(content: bytes) -> None:
    """Refuse a pickle that is cut off, or could need much more memory than its own size."""
    file = io.BytesIO(content)
    for _ in range(MAX_OPCODES):
        opcode = OPCODES.get(file.read(1).decode("latin1"))
        if opcode is None:
            break
        if opcode.name == "STOP":
            return
        # pickletools reads ASCII alone in Python 2's strings; it raises an error where the file ends in an argument
        _ = file.readline() if opcode.name == "STRING" else opcode.arg and opcode.arg.reader(file)
    raise pickle.UnpicklingError("it is incomplete or too large")


class _Call:
    """A call that the pickle asks for, and the state that it gives to the result."""

    def __init__(self, function: str, arguments: tuple[Any, ...]):
        self.function, self.arguments = function, arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """The one that Python has in Python: its memo needs little memory, and its methods can be replaced."""

    # Tuples become lists, which can't be keys: to hash a tuple of tuples of … can crash or take for ever
    dispatch: ClassVar[Any] = pickle._Unpickler.dispatch | {
        code: lambda self, load=pickle._Unpickler.dispatch[code]: (load(self), self.append([*self.stack.pop()]))
        for code in (ord(opcode.code) for opcode in pickletools.opcodes if "TUPLE" in opcode.name)
    }

    def find_class(self, module: str, name: str) -> Any:
        """A function that records its call."""
        if not CALLS.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it names {f'{module}.{name}'[:80]!a}")
        return lambda *arguments: dict(*arguments) if name == "OrderedDict" else _Call(name, arguments)


def _tensor(array: _Call) -> torch.Tensor:
    """The array that NumPy would make, as float32."""
    if array.function == "_frombuffer":  # protocol 5
        data, dtype, shape, order = array.arguments
    else:
        _, shape, dtype, by_columns, data = array.state
        order = "F" if by_columns else "C"
    if isinstance(data, _Call):  # of encode: how Python 3 writes bytes for Python 2
        data = data.arguments[0]
    data = data.encode("latin1") if isinstance(data, str) else data
    kind = "".join((dtype.state[1], dtype.arguments[0]))
    if kind not in ("<f4", "<f8", ">f4", ">f8"):
        raise ValueError(f"it holds {kind[:80]!a}, not floating-point numbers")
    values = np.ndarray(shape, kind, data, order=order)
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C")).float()
