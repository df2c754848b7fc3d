"""What maps cost in time and memory, as ratios within one run, at true model sizes with random weights."""
