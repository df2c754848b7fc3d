"""Configurations for `accelerate launch`, a Slurm job and the Gaudi path, as files."""
