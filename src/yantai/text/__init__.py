"""Text: documents and how they are read, tokenizers, conversations, the village."""
