"""Lists: following pages, remembering what was seen, finding given backups."""
