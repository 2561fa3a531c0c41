"""Waiting for backups to complete, with looks at the list that all waits share."""
