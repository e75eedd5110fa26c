"""The one Transformer. No family's name occurs on this floor."""
