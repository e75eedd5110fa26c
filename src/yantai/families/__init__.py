"""What Hugging Face calls things: one file of tables a family, read in both directions."""
