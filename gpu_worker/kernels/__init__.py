"""Attention kernels for particular devices, each with a check that says whether it may be used."""
