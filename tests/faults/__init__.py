"""Faults of `docs/faults.md`: each test says which rows it stands for."""
