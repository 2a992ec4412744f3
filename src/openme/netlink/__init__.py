"""The kernel's netlink sockets: ours because measured (pyroute2 takes 217 ms to import). No firewall rules in here."""
