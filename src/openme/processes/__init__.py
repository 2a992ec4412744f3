"""The processes of a server: what each may do, how they are made, confined, and how they end."""
