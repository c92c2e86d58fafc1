"""The miniature MMEB: 14 tasks over images, videos and visual documents, made from real content.

    from umer1.data.mini import build
    build("data/mini", seed=0)

Needs the packages of the `data` extra; importing this module does not.
"""


def __getattr__(name):
    if name in ("build", "Counts", "TASKS"):
        from umer1.data.mini import builder

        return getattr(builder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
