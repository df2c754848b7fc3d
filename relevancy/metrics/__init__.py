"""Is a map right? Numbers that say so: against the model itself, against truth, and against controls."""
