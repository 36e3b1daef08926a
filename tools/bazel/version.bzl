"""The version of Strata, told nowhere else."""

VERSION = "0.1.0"
