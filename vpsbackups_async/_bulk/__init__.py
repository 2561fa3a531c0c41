"""Bulk jobs: the same work on many items, a limited number at once."""
