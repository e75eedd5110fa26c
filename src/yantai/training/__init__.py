"""The loop, its optimisers, what it survives."""
