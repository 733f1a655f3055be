"""The ladder: the same product in one kernel after another, each a step faster than the one before, for learners."""
