"""Vision-language models with their processors, and what lies between a question and token ids."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relevancy.models.model import Model as Model
    from relevancy.models.model import load as load
    from relevancy.models.model import wrap as wrap

__all__ = ["Model", "load", "wrap"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.model"), name)
