"""Any model over any text → numbers with intervals."""
