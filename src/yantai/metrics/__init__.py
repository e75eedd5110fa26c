"""Numbers from predictions; no torch."""
