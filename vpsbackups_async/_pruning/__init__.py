"""Deletes backups by a retention policy: plans, carries them out, and rotates."""
