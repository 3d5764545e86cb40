"""The communicator in real processes, over every layout of ranks on hosts."""
