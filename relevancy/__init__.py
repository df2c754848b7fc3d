"""Which image patches and which words made a vision-language model say that token.

    import relevancy

    model = relevancy.load("demo-large")  # or "2b", "7b", any hub id or folder
    result = relevancy.explain(model, "duck.png", "Is the duck floating? (a) Yes (b) No")
    result.overlay().save("overlay.png")

Names are imported on first use, so that `import relevancy` costs nothing. No module has the name of a function here:
importing one would put it in the function's place.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relevancy.core.tape import record as record
    from relevancy.errors import RelevancyError as RelevancyError
    from relevancy.explanations.comparison import compare as compare
    from relevancy.explanations.counterfactual import Region as Region
    from relevancy.explanations.counterfactual import counterfactual as counterfactual
    from relevancy.explanations.explain import explain as explain
    from relevancy.explanations.explain import explain_heads as explain_heads
    from relevancy.explanations.explanation import Explanation as Explanation
    from relevancy.export.results import open_export as open_export
    from relevancy.methods.registry import register_method as register_method
    from relevancy.models import Model as Model
    from relevancy.models import load as load
    from relevancy.models import wrap as wrap
    from relevancy.models.checkpoints import MODELS as MODELS

__version__ = "0.1.0"
_HOMES = {
    "MODELS": "models.checkpoints",
    "Explanation": "explanations.explanation",
    "Model": "models",
    "Region": "explanations.counterfactual",
    "RelevancyError": "errors",
    "compare": "explanations.comparison",
    "counterfactual": "explanations.counterfactual",
    "explain": "explanations.explain",
    "explain_heads": "explanations.explain",
    "load": "models",
    "open_export": "export.results",
    "record": "core.tape",
    "register_method": "methods.registry",
    "wrap": "models",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
