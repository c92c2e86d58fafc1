"""From tasks to means: groups of MMEB-V2, tables, the leaderboard's file."""
