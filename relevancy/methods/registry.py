"""Every method by name: what it computes, what it costs, what it needs. Nothing heavy is imported here."""

from __future__ import annotations

__all__ = ["DEFAULT", "METHODS", "Cost", "MapFunction", "Method", "function_method", "register_method"]

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import getdoc
from types import MappingProxyType
from typing import Any

from relevancy.errors import RelevancyError
from relevancy.plugins import Plugins

MapFunction = Callable[[Any], Any]
"""A method as a function of one `functions.MapRequest`; see `function_method`."""

DEFAULT = "relevancy"
"""The paper's: what is computed and shown where no method is named."""

_FEW = 4  # passes that someone who waits for a map does not mind
_INSTALL: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"captum": ("captum", 'pip install "relevancy[captum]"'), "scikit-learn": ("sklearn", "pip install scikit-learn")}
)


@dataclass(frozen=True)
class Cost:
    """Passes of the model for one explained token, at most; those that find the answer are not counted."""

    forward: int
    backward: int = 0

    def __str__(self) -> str:
        passes = f"{self.forward} forward"
        return f"{passes}, {self.backward} backward" if self.backward else passes


@dataclass(frozen=True)
class Method:
    """One way to explain a token.

    summary: one line of meaning. formula, source: what is computed, and who proposed it. weaknesses: what is known
    against it. scopes: those of `explain` that it knows. needs: packages beside the required ones. signed: whether its
    numbers may be negative, speaking against the token. layered: whether `layers` choose what takes part. by_token:
    whether with scope language each input token has a number of its own, so that image tokens may lie on the picture in
    any way (tiles, merged patches). by_head: whether its row is the sum of what each head of each layer adds, see
    `explain_heads`. words: whether words have relevance too. resumes: whether a question can be read after a picture
    that was read before it. home: the module and the name in it of what runs it, see `base.opened`.
    """

    name: str
    summary: str
    formula: str
    source: str
    cost: Cost
    weaknesses: str
    home: str
    scopes: tuple[str, ...] = ("language",)
    needs: tuple[str, ...] = ()
    signed: bool = False
    layered: bool = False
    by_token: bool = False
    by_head: bool = False
    words: bool = True
    resumes: bool = False
    function: MapFunction | None = None

    @property
    def quick(self) -> bool:
        """Whether it costs a few passes only."""
        return self.cost.forward + self.cost.backward <= _FEW

    @property
    def missing(self) -> tuple[str, ...]:
        """Those packages it needs that are not installed."""
        return tuple(package for package in self.needs if find_spec(_install(package)[0]) is None)


def function_method(
    name: str,
    function: MapFunction,
    *,
    summary: str | None = None,
    formula: str = "",
    source: str = "",
    cost: Cost = Cost(1, 1),
    weaknesses: str = "",
    needs: tuple[str, ...] = (),
    signed: bool = False,
    words: bool = False,
) -> Method:
    """A method that calls `function(request)` for the maps of a batch, once for each round of targets.

    function: takes a `functions.MapRequest`; returns a tensor or array (batch, rows, cols), one number for each patch
    of each picture, or with `words` (batch, tokens), one for each input token, image tokens included.
    summary: the function's first line of documentation where None. The other arguments are as in `Method`.
    """
    told = (getdoc(function) or name).splitlines()[0] if summary is None else summary
    return Method(
        name, told, formula, source, cost, weaknesses, "relevancy.methods.functions:calling", needs=needs,
        signed=signed, words=words, function=function,
    )  # fmt: skip


def register_method(name: str, function: MapFunction, **facts: Any) -> Method:
    """Make a method of your own known by name in this process, wherever a method is chosen by name.

    function, facts: as in `function_method`, which this calls. Working processes do not know it: those of an export
    need a package that declares it as an entry point of `relevancy.methods` (docs/extending.md).
    Raises RelevancyError for a name that is taken.
    """
    return METHODS.add(name, function_method(name, function, **facts))


def found(method: str | MapFunction) -> Method:
    """The method of this name, or a function as a method under its own name. Raises RelevancyError."""
    if isinstance(method, str):
        return METHODS.named(method)
    if not callable(method):
        raise RelevancyError(f"method takes a name or a function, not {method!r}.")
    name = getattr(method, "__name__", type(method).__name__)
    if name in METHODS and METHODS[name].function is not method:
        raise RelevancyError(f"There is a method {name} already: give your function another name.")
    return function_method(name, method)


def require_shared(method: str | MapFunction) -> None:
    """Raise RelevancyError for a method that working processes would not find."""
    if not isinstance(method, str) or not METHODS.travels(method):
        raise RelevancyError(
            f"Method {found(method).name} is known to this process only: declare it in a package (entry point "
            "relevancy.methods), or work here (--processes 0)."
        )


def chosen(name: str | MapFunction, scope: str, layers: Iterable[int] | None) -> Method:
    """The method of this name. Raises RelevancyError when there is none, or when it cannot do what is asked of it."""
    method = found(name)
    name = method.name
    if scope not in method.scopes:
        raise RelevancyError(f"Method {name} has no scope {scope}: use {' or '.join(method.scopes)}.")
    if layers is not None and not method.layered:
        takers = ", ".join(other.name for other in METHODS.usable().values() if other.layered)
        raise RelevancyError(f"Method {name} reads no layer's attention: leave layers out, or use {takers}.")
    for package in method.missing:
        raise RelevancyError(f"Method {name} needs {package}: {_install(package)[1]}")
    return method


def require_heads(method: Method) -> None:
    """Raise RelevancyError for a method whose row is no sum over heads."""
    if not method.by_head:
        takers = ", ".join(other.name for other in METHODS.usable().values() if other.by_head)
        raise RelevancyError(f"Method {method.name} does not say what each head adds: use {takers}.")


def _install(package: str) -> tuple[str, str]:
    """The module of a package, and how to install it."""
    return _INSTALL.get(package, (package.replace("-", "_"), f"pip install {package}"))


def _made(name: str, declared: Any) -> Method:
    """What an entry point holds: a method of that name, or a function."""
    if isinstance(declared, Method):
        if declared.name != name:
            raise RelevancyError(f"it calls itself {declared.name}")
        return declared
    if not callable(declared):
        raise RelevancyError("it is neither a function nor a Method")
    return function_method(name, declared)


_BOTH = ("language", "full")
_HIDDEN = (
    "Hidden is what the picture's mean color would give: with scope language in the image embeddings, with full in the "
    "pixels. "
)

_OWN: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                "relevancy",
                "Attention times its gradient, carried from layer to layer; the paper's method and the default.",
                "Abar = mean_h max(0, A_h * dy/dA_h); R <- R + Abar R from R = I; row t of R, without its own unit",
                "Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6",
                Cost(1, 1),
                "Never negative, so nothing can speak against the token; first tokens gather attention that has "
                "nothing to do.",
                "relevancy.methods.relevancy:relevancy",
                scopes=_BOTH,
                layered=True,
                by_token=True,
                by_head=True,
                resumes=True,
            ),
            Method(
                "relevancy-magnitude",
                "Relevancy with sizes in place of the clamp: what the decision is about, for the token or against it.",
                "Abar = mean_h |A_h * dy/dA_h|, its rows divided by their sums; R <- R + Abar R; row t of R, without "
                "its own unit",
                "this project; after Chefer, Gur and Wolf, ICCV 2021, whose clamp cuts by a sign that depends on where "
                "the values' origin lies",
                Cost(1, 1),
                "Does not tell what speaks for a token from what speaks against it, so maps of two answers are more "
                "alike than with relevancy.",
                "relevancy.methods.relevancy:magnitude",
                scopes=_BOTH,
                layered=True,
                by_token=True,
                by_head=True,
                resumes=True,
            ),
            Method(
                "attention",
                "Where the explained position looks, mean over layers and heads.",
                "mean_l mean_h A_lh[t]",
                "Bahdanau, Cho and Bengio, ICLR 2015, read as an explanation; against it Jain and Wallace, NAACL 2019",
                Cost(1),
                "The same for every token that could be said here, a contrast's two words included; much of it rests "
                "on first tokens.",
                "relevancy.methods.attention_maps:mean",
                layered=True,
                by_token=True,
            ),
            Method(
                "attention-last",
                "Where the explained position looks in the last layer, mean over heads.",
                "mean_h A_Lh[t], L the last of the chosen layers",
                "as attention",
                Cost(1),
                "As attention; by the last layer, what was in a patch may have moved to another token.",
                "relevancy.methods.attention_maps:last",
                layered=True,
                by_token=True,
            ),
            Method(
                "rollout",
                "Attention followed through all layers, half of each token staying where it is.",
                "R <- (A + I)/2 R with A = mean_h A_h, from R = I; row t of R",
                "Abnar and Zuidema, ACL 2020",
                Cost(1),
                "As attention; in a causal decoder it gathers on the earliest tokens, the deeper the more.",
                "relevancy.methods.attention_maps:rollout",
                layered=True,
                by_token=True,
            ),
            Method(
                "attention-gradient",
                "Where the explained position looks and gains by it, mean over layers and heads.",
                "mean_l mean_h max(0, A_lh[t] * dy/dA_lh[t])",
                "Barkan et al., CIKM 2021 (Grad-SAM), for the explained position's row",
                Cost(1, 1),
                "Sees only what this position reads itself: what a patch told to another token is credited to that "
                "token.",
                "relevancy.methods.relevancy:attention_x_gradient",
                layered=True,
                by_token=True,
                by_head=True,
            ),
            Method(
                "gradcam",
                "Features of the tower's last block that is used, weighted by their mean gradient.",
                "max(0, sum_c w_c F_pc) with w_c = mean_p dy/dF_pc; F what the connector reads of patch p, channel c",
                "Selvaraju et al., ICCV 2017",
                Cost(1, 1),
                "One weight per channel for all patches, which a connector without pooling does not suggest; features "
                "deep in a tower need not lie where their object is; words have none.",
                "relevancy.methods.gradients:gradcam",
                words=False,
            ),
            Method(
                "input-gradient",
                "Each input times the gradient at it.",
                "sum_d x_d * dy/dx_d, over an embedding's entries, or with scope full over a patch's pixels",
                "Shrikumar et al., 2016; Simonyan et al., 2013",
                Cost(1, 1),
                "Noisy, and blind to an input that is saturated; a pixel of the mean color is 0, and so its share.",
                "relevancy.methods.gradients:input_gradient",
                scopes=_BOTH,
                signed=True,
            ),
            Method(
                "attnlrp",
                "Relevance handed back layer by layer, by rules for norms, activations, products and softmax.",
                "sum_d x_d * g_d over an embedding's entries, with g the gradient in which norms and activations are "
                "fixed factors and each factor of a product gets half",
                "Achtibat et al., ICML 2024 (AttnLRP)",
                Cost(1, 1),
                "Rules are chosen, not derived; biases and the softmax keep relevance for themselves, so the sum is "
                "not the logit. Noise where large numbers of both signs cancel.",
                "relevancy.methods.gradients:attnlrp",
                signed=True,
                by_token=True,
            ),
            Method(
                "tam",
                "What the picture's own last states say for the token, less what the words before it explain.",
                "max(0, A - s I), filtered; A_p = max(0, w h_p), w the word's output embedding less the mean; I the "
                "mean of the earlier words' maps, weighted with how much each speaks for the token; s by least squares",
                "Li et al., ICCV 2025 (TAM), who take logits as they come instead of less their mean",
                Cost(1),
                "Shows where the picture's tokens would say the word, not what made the model say it: a decoder need "
                "not keep any word there.",
                "relevancy.methods.activation_maps:tam",
            ),
            Method(
                "integrated-gradients",
                "Gradients on the way from a picture of one color to this one; they sum to the difference it makes.",
                "sum_d (x - x0)_d * mean over steps a of dy/dx_d at x0 + a (x - x0)",
                "Sundararajan, Taly and Yan, ICML 2017",
                Cost(36, 32),
                _HIDDEN
                + "Pictures on the way are ones that no model has seen. Few steps miss the sum: the convergence "
                "delta says by how much.",
                "relevancy.methods.perturbation:integrated_gradients",
                scopes=_BOTH,
                needs=("captum",),
                signed=True,
                words=False,
            ),
            Method(
                "occlusion",
                "What the token loses when a window that slides over the picture hides its patches.",
                "mean over the windows w over patch p of (y - y without w) / patches in w",
                "Zeiler and Fergus, ECCV 2014",
                Cost(124),
                _HIDDEN + "What stands twice in a picture can be hidden once without loss; a hidden window is a sight "
                "of its own.",
                "relevancy.methods.perturbation:occlusion",
                scopes=_BOTH,
                needs=("captum",),
                signed=True,
                words=False,
            ),
            Method(
                "ablation",
                "What the token loses when a group of patches is hidden.",
                "(y - y without g) / patches in g, for each group g of a grid of at most 8 x 8",
                "Zeiler and Fergus, ECCV 2014; captum's FeatureAblation",
                Cost(67),
                _HIDDEN + "As occlusion; an object on a border of two groups is never hidden whole.",
                "relevancy.methods.perturbation:ablation",
                scopes=_BOTH,
                needs=("captum",),
                signed=True,
                words=False,
            ),
            Method(
                "shapley",
                "What groups of patches add, mean over 8 random orders in which they appear; they sum to the "
                "difference the picture makes.",
                "mean over orders of y(groups before g, and g) - y(groups before g), / patches in g",
                "Castro, Gomez and Tejada, 2009; Strumbelj and Kononenko, 2010",
                Cost(515),
                _HIDDEN + "Few orders: the noise of a group's value is of the size of small values. Slow.",
                "relevancy.methods.perturbation:shapley",
                scopes=_BOTH,
                needs=("captum",),
                signed=True,
                words=False,
            ),
            Method(
                "kernel-shap",
                "Shapley values as the weighted linear fit to 512 random sets of hidden groups.",
                "argmin_phi sum_z k(z) (y(z) - phi0 - phi z)^2 with Shapley's kernel k, / patches in a group",
                "Lundberg and Lee, NeurIPS 2017",
                Cost(514),
                _HIDDEN + "As shapley; where sets are fewer than groups ask for, the fit is not unique. Slow.",
                "relevancy.methods.perturbation:kernel_shap",
                scopes=_BOTH,
                needs=("captum", "scikit-learn"),
                signed=True,
                words=False,
            ),
            Method(
                "lime",
                "A sparse linear fit to 512 random sets of hidden groups, near ones counting more.",
                "argmin_w sum_z s(z) (y(z) - w0 - w z)^2 + 0.01 |w|_1, s = exp(-(1 - cos(x, x_z))^2), / patches in a "
                "group",
                "Ribeiro, Singh and Guestrin, KDD 2016",
                Cost(514),
                _HIDDEN
                + "What the penalty leaves out depends on the logit's scale; how near counts is arbitrary. Slow.",
                "relevancy.methods.perturbation:lime",
                scopes=_BOTH,
                needs=("captum", "scikit-learn"),
                signed=True,
                words=False,
            ),
        )
    }
)

METHODS: Plugins[Method] = Plugins("method", "relevancy.methods", _OWN, _made)
"""Every method by name: the package's own, then those of installed packages, then those registered here."""
