"""Pure functions on arrays: metrics, baselines, the scoreboard."""
