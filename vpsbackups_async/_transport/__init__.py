"""Sending requests: connections, the limiter, deadlines, retries."""
