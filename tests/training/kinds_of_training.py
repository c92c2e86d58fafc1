"""Runs SFT in every kind of distribution, one after the other in the same processes, which start slowly.

torchrun --nproc-per-node 2 … kinds_of_training.py <settings.json>: a list of training configs with the name of each
run; "die_at" ends a run after that step as a kill would (no final model), without ending the process; "full_disk" is
[step, rank, file]: from that step on that process cannot write checkpoint files with that in their name.
"""

import errno
import json
import sys
from pathlib import Path

from accelerate import Accelerator

from umer1.training import loop, sft
from umer1.training.checkpoints import CheckpointError
from umer1.training.config import _build
from umer1.training.settings import SFTConfig

Accelerator.end_training = lambda self: None  # keeps the process group for the next run


class Died(BaseException):
    pass


def fill_disk(engine, part: str) -> None:
    writer = engine.checkpoint_engine
    save = type(writer).save

    def failing(self, state_dict, path):
        if part in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, state_dict, path)

    writer.__class__ = type("Full", (type(writer),), {"save": failing})


def main(path: str) -> None:
    log = loop.Run.log
    for settings in json.loads(Path(path).read_text()):
        die_at = settings.pop("die_at", None)
        full = settings.pop("full_disk", None)

        def dying(self, numbers, die_at=die_at, full=full):
            log(self, numbers)
            if full and [self.step, self.parallel.rank] == full[:2]:
                fill_disk(self.parallel.engine, full[2])
            if self.step == die_at:
                self.signals.restore()
                raise Died

        loop.Run.log = dying
        config = _build(SFTConfig, settings, "test")
        try:
            sft.run(config, progress=False)
        except Died:
            pass
        except (ValueError, CheckpointError) as error:
            (Path(config.output) / "error.txt").write_text(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
