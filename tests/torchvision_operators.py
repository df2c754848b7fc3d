"""A pytest plugin that lets torchvision's wheel, which is built for CUDA, be imported beside a CPU build of torch.

Its compiled operators cannot be loaded there, and its import asks for some of them by name. They are declared and not
defined: what calls one fails. No processor of pictures or videos does.
"""

import torch

_DECLARED = torch.library.Library("torchvision", "DEF")
_DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
for pooled in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
    _DECLARED.define(f"{pooled}(Tensor input) -> Tensor")
    _DECLARED.define(f"_{pooled}_backward(Tensor input) -> Tensor")
for quantized in ("qnms", "qroi_align"):
    _DECLARED.define(f"{quantized}(Tensor input) -> Tensor")
