"""Parts of a client for use in web applications."""
