"""The tensors of a checkpoint; each is taken once, in its expected shape, and none may stay behind."""

from collections.abc import Mapping

import numpy as np

from .archive import RefusedFile, short
from .torch_file import Tensor, TorchFile


class StateDict:
    """Tensors by name, described until they are taken."""

    def __init__(self, file: TorchFile, tensors: Mapping[str, Tensor], dtype: str = "<f4"):
        """Start with all of `tensors`; `dtype` is the one of every weight."""
        self._file, self._left, self._dtype = file, dict(tensors), dtype

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor that is not yet taken; None where there is none."""
        return self._left[name].shape if name in self._left else None

    def take(self, name: str, *shapes: tuple[int, ...], dtypes: tuple[str, ...] | None = None) -> np.ndarray:
        """Take a finite tensor of one of these shapes and types; of the type of the weights by default."""
        dtypes = dtypes or (self._dtype,)
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise RefusedFile(f"tensor {name} is missing; this network needs it")
        if tensor.shape not in shapes or tensor.storage.dtype not in dtypes:
            needed = " or ".join(str(list(shape)) for shape in shapes)
            found = f"{list(tensor.shape)} of {tensor.storage.dtype}"
            raise RefusedFile(f"tensor {name} is {found}; {needed} of {' or '.join(dtypes)} is needed")
        array = self._file.array(tensor)
        if not np.isfinite(array).all():
            raise RefusedFile(f"tensor {name} has values that are not finite; all must be")
        return array

    def take_mask(self, name: str, outputs: list[int], fed: int) -> None:
        """Take a mask that follows from the shapes: 1 for features of l < `fed`, 0 for those never fed."""
        mask = self.take(name, (dimension(outputs),))
        ones = dimension(outputs[:fed])
        if not (mask[:ones] == 1).all() or mask[ones:].any():
            raise RefusedFile(f"tensor {name} is not the mask that follows from the shapes, as it must be")

    def finish(self) -> None:
        """Refuse if tensors are left."""
        if self._left:
            raise RefusedFile(f"tensor {short(min(self._left))} has no place in this network")


def dimension(multiplicities: list[int]) -> int:
    """Count the numbers of features with so many channels of l = 0, 1, ...

    >>> dimension([128, 64])
    320
    """
    return sum(count * (2 * degree + 1) for degree, count in enumerate(multiplicities))
