"""What to learn: example → batch → loss → metrics."""
