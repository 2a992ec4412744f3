"""What doctor looks at on a server."""
