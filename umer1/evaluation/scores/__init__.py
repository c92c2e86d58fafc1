"""From vectors to scores of a task: ranking in blocks, metrics, result files of others."""
