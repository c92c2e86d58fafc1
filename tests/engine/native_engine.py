"""What the tests of the native engine share."""

from __future__ import annotations

from umer1.engine import SpecialTokens

NEVER = 10_000
SPECIAL = SpecialTokens(NEVER, NEVER)


def run(engine, *requests):
    while not all(request.over for request in requests):
        engine.step()
        engine.stepper.scheduler.check()
    return [request.results[0].rollout for request in requests]


class VisionCalls:
    """How many media went through the tower."""

    def __init__(self, model):
        self.media = 0
        self._handle = model.vision.register_forward_pre_hook(self._count)

    def _count(self, module, arguments):
        self.media += len(arguments[1])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.remove()
