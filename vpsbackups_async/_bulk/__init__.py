"""The same work over many items, a bounded number at once."""
