"""What we know and the rules that change it. Pure: no I/O, no clock, no framework."""
