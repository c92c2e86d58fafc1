"""What is installed, what the machine can do, and what follows from it."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

CORE = ("torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
# package -> what needs it
OPTIONAL = {
    "triton": "GPU kernels",
    "av": "video files",
    "torchcodec": "video files, faster",
    "accelerate": "training",
    "deepspeed": "ZeRO training",
    "peft": "LoRA",
    "tensorboard": "training curves",
    "flash-attn": "faster attention on GPUs",
    "matplotlib": "plots",
    "scikit-learn": "the miniature benchmark",
    "scikit-image": "the miniature benchmark",
    "scikit-video": "the miniature benchmark",
    "faiss-cpu": "approximate search",
    "fastapi": "serving",
    "openai": "annotation",
}
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def diagnose() -> dict[str, dict]:
    """Sections of findings, and under "problems" the sentences about what is broken."""
    problems: list[str] = []
    return {
        "versions": _versions(problems),
        "machine": _machine(),
        "gpu": _gpu(problems),
        "kernels": _kernels(problems),
        "training": _training(),
        "optional_packages": _optional(),
        "bundled_model": _bundled_model(problems),
        "problems": problems,
    }


def _versions(problems):
    found = {"python": platform.python_version(), "umer1": _version("umer1")}
    for name in CORE:
        found[name] = _version(name)
        if found[name] is None:
            problems.append(f"{name} is not installed: pip install {name}")
    return found


def _machine():
    flags, model = _cpu_info()
    features = [feature for feature in CPU_FEATURES if feature in flags]
    affinity = getattr(os, "sched_getaffinity", None)
    found = {
        "system": platform.platform(),
        "cpu": model or platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "cpu features": features,
    }
    try:
        import torch
    except ImportError:
        return found
    return {
        **found,
        "torch threads": torch.get_num_threads(),
        "torch kernels": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu_info():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    values = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    # x86 says flags, ARM says Features
    return set((values.get("flags") or values.get("Features") or "").split()), values.get(
        "model name"
    )


def _gpu(problems):
    try:
        import torch
    except ImportError:
        return {"devices": []}
    found = {"torch built for cuda": torch.version.cuda, "driver": _driver()}
    if not torch.cuda.is_available():
        if found["driver"] and torch.version.cuda:
            problems.append(
                "there is an NVIDIA driver, but torch cannot use it (CUDA newer than the driver?)"
            )
        return {**found, "devices": []}
    devices = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / 2**30
        devices.append(
            f"{properties.name} (sm_{properties.major}{properties.minor}, {memory:.0f} GiB)"
        )
    return {**found, "devices": devices}


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.split("\n")[0].strip() or None


def _kernels(problems):
    try:
        import torch

        import umer1_kernels
        from umer1.model.attention import packed_backend
        from umer1_kernels.backends import HOW, choose
    except ImportError as error:
        problems.append(f"umer1_kernels cannot be imported: {error}")
        return {}
    extension = umer1_kernels.extension_status()
    found = {
        "version": umer1_kernels.__version__,
        "compiled extension": extension.detail,
        **{f"backend {name}": state for name, state in umer1_kernels.backend_status().items()},
    }
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for function in HOW:
            choice = choose(function, "auto", torch.empty(0, device=device))
            # a reason only where something is missing
            why = "" if choice.backend != "reference" else f" ({choice.reason})"
            found[f"{function} on {device}"] = f"{choice.backend}: {choice.plan}{why}"
        backend = packed_backend(torch.device(device), torch.bfloat16)
        found[f"attention of packed sequences in training on {device}"] = backend
    return found


def _training():
    from umer1.training.packing import planner

    found = planner()
    return {"packing planner": f"{found.name}: {found.detail}"}


def _optional():
    found = {}
    for name, use in OPTIONAL.items():
        installed = _version(name)
        found[name] = installed if installed else f"not installed (for {use})"
    return found


def _bundled_model(problems):
    try:
        from umer1 import Embedder

        model = Embedder.load("tiny", device="cpu")
        vector = model.encode("hello", mode="disc", progress=False).disc
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what doctor is asked for
        problems.append(f"the bundled model does not work: {type(error).__name__}: {error}")
        return {"tiny": "broken"}
    return {"tiny": f"works, vectors of dimension {vector.shape[1]}"}


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
