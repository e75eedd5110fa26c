"""What is wrapped round a finished model from outside."""
