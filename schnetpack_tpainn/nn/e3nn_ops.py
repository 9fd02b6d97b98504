"""e3nn operations that carry no state: they pickle, copy, script, and stay exact in any dtype."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import e3nn
import torch
from e3nn import o3
from e3nn.util.codegen import CodeGenMixin

__all__ = ["Linear", "SphericalHarmonics", "TensorProduct"]


@contextmanager
def _eager_codegen() -> Iterator[None]:
    """Generate eager code, whatever the process has chosen: only that pickles and trains."""
    mode = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode="eager")
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=mode)


class _Stateless(CodeGenMixin, torch.nn.Module):
    """Keeps e3nn's constants out of state dicts, and Clebsch-Gordan coefficients exact."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _eager_codegen():
            super().__init__(*args, **kwargs)
        self._hide_constants()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._hide_constants()

    def _hide_constants(self) -> None:
        for module in self.modules():
            for name, constant in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, constant, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Move or cast; then write the coefficients anew, for a cast back cannot restore them."""
        super()._apply(fn, recurse)
        for name, constant in self.named_buffers():
            _, found, orders = name.partition("_w3j_")
            if found:
                l1, l2, l3 = (int(order) for order in orders.split("_"))
                constant.copy_(o3.wigner_3j(l1, l2, l3, dtype=torch.float64))
        return self


class TensorProduct(_Stateless, o3.TensorProduct):
    """``e3nn.o3.TensorProduct`` without internal weights; same arguments."""


class Linear(_Stateless, o3.Linear):
    """``e3nn.o3.Linear`` without internal weights; same arguments."""


class SphericalHarmonics(o3.SphericalHarmonics):
    """``e3nn.o3.SphericalHarmonics`` in eager code; same arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _eager_codegen():
            super().__init__(*args, **kwargs)
