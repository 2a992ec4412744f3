"""From datagram to frame: the unprivileged side, without I/O."""
