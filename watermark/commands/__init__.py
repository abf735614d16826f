"""The commands of the command line: what they take, what they call, and what they print."""
