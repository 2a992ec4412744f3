"""What survives the server, behind one protocol: who knocked, who is in, and how far that is known for certain."""
