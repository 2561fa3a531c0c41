"""Creating backups, and finding out what became of a create without an answer."""
