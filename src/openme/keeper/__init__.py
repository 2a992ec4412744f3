"""From frame to grant: the side that owns clients, replay memory and the firewall."""
