"""The 2016 program's own file, ``save.p``: a pickle of W1 and W2.

A pickle can name any function to be called. Here the calls that NumPy's arrays need are recorded, all others are
refused, and none is made. Source: Karpathy 2016, gist pg-pong.py, ``pickle.dump(model, open('save.p', 'wb'))``.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pong.config import InputError
from pong.observations import PIXELS

ENTRIES = ("W1", "W2")
MAX_BYTES = 2**28  # 200 hidden units take 10 to 40 MB
MAX_OPCODES = 1_000  # a save.p has about 100
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
CALLS = re.compile(r"numpy\.(ndarray|dtype|_?core\.(multiarray\._reconstruct|numeric\._frombuffer))|_codecs\.encode")


def read(path: Path) -> dict[str, torch.Tensor]:
    """A policy's W1 (6400, hidden) and W2 (hidden,), float32, of a file that Python 2 or 3 wrote with any protocol."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
        _check_size(content)
        model = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(model, dict) or set(model) != set(ENTRIES):
            raise ValueError("its content is not W1 and W2")
        W1, W2 = weights = [_tensor(model[name]) for name in ENTRIES]
        if W1.shape != (*W2.shape, PIXELS) or W1.ndim != 2 or not len(W1):
            raise ValueError(f"W1 {tuple(W1.shape)} and W2 {tuple(W2.shape)} are not (hidden, {PIXELS}) and (hidden,)")
        if not all(tensor.isfinite().all() for tensor in weights):
            raise ValueError("a weight is NaN or infinite")
    except Exception as error:  # a broken or hostile pickle can raise anything
        message = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"import: {path} can't be read as save.p: {message}; nothing in it was executed") from None
    return {"W1": W1.T.contiguous(), "W2": W2}


def write(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a policy's weights for the 2016 program, whose W1 is the transpose; for Python 2 or 3 and any NumPy."""
    model = {name: np.ascontiguousarray(weights[name].double().numpy().T) for name in ENTRIES}
    content = pickle.dumps(model, protocol=2)  # the newest that Python 2 knows
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core.", 1))  # NumPy 2's name, pickled once


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
        argument: Any = file.readline() if opcode.name == "STRING" else opcode.arg and opcode.arg.reader(file)
        if "PUT" in opcode.name and argument > MAX_OPCODES:  # the unpickler makes a table of so many entries
            break
    raise pickle.UnpicklingError("it is incomplete or too large")


class _Call:
    """A call that the pickle asks for, and the state that it gives to the result."""

    def __init__(self, function: str, arguments: tuple[Any, ...]):
        self.function, self.arguments = function, arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A function that records its call."""
        if not CALLS.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it names {f'{module}.{name}'[:80]!a}")
        return lambda *arguments: _Call(name, arguments)


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
    kind = f"{dtype.state[1]}{dtype.arguments[0]}"
    if kind not in ("<f4", "<f8", ">f4", ">f8"):
        raise ValueError(f"it holds {kind[:80]!a}, not floating-point numbers")
    values = np.frombuffer(data, kind).reshape(shape, order=order)
    return torch.from_numpy(values.astype(np.float64, order="C")).float()
