"""What doctor looks at on a client, of any system."""
