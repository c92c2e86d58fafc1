"""group_reward's row scores by the compiled operator."""

from __future__ import annotations

import functools

from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.rollout_groups import score_by

score_side = functools.partial(score_by, operators.group_reward_scores)
