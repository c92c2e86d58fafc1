"""The groups over which MMEB-V2 is averaged: 78 tasks in all, 36 image, 18 video, 24 visual
documents, and the parts of each that UME-R1 reports.

The three single-language ViDoRe-v2 entries are run but not counted.
"""

from functools import cache

from umer1.evaluation.benchmark import entries

TITLES = {
    "overall": "all tasks",
    "image": "image",
    "image/CLS": "image classification",
    "image/QA": "image QA",
    "image/RET": "image retrieval",
    "image/VG": "visual grounding",
    "image/in-domain": "image, in domain",
    "image/out-of-domain": "image, out of domain",
    "video": "video",
    "video/CLS": "video classification",
    "video/QA": "video QA",
    "video/RET": "video retrieval",
    "video/MRET": "moment retrieval",
    "visdoc": "visual documents",
    "visdoc/ViDoRe-v1": "ViDoRe v1",
    "visdoc/ViDoRe-v2": "ViDoRe v2",
    "visdoc/VisRAG": "VisRAG",
    "visdoc/OOD": "documents, out of domain",
}

# UME-R1's split of the image tasks (its report script of the two modes)
IN_DOMAIN = frozenset(
    "ImageNet-1K HatefulMemes SUN397 N24News VOC2007 OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA "
    "Visual7W VisDial CIRR NIGHTS WebQA VisualNews_i2t VisualNews_t2i MSCOCO_i2t MSCOCO_t2i "
    "MSCOCO".split()
)


@cache
def benchmark_groups() -> dict[str, list[str]]:
    """Group -> its task names, in the order of TITLES."""
    groups = {title: [] for title in TITLES}
    for entry in entries().values():
        if not entry.counted:
            continue
        for group in ("overall", entry.modality, f"{entry.modality}/{entry.group}"):
            groups[group].append(entry.name)
        if entry.modality == "image":
            domain = "in-domain" if entry.name in IN_DOMAIN else "out-of-domain"
            groups[f"image/{domain}"].append(entry.name)
    return groups


def counted_tasks() -> frozenset[str]:
    """Names of the 78 tasks."""
    return frozenset(benchmark_groups()["overall"])
