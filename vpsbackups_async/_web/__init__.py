"""What a client does inside a web application."""
