"""Training: one loop, a task for each part; needs requirements-train.txt."""
