"""Sending requests: one session, retries, deadlines, the limiter."""
