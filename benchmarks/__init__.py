"""Measurements of Unbroken beside what it could be measured against: ``python -m benchmarks``. Linux only.

machine      what the figures were measured on
processes    start, pin, observe and end the servers
contenders   who is measured
load         the load generator, a process of its own
floor        servers that do nothing, the upper bound of ours
nginx        static files, the upper bound of reads
raw          the same batches written to a plain file, the lower bound of a durable store
bare         single commits in SQLite, the lower bound of one durable append
verify       read everything back: a server that loses data has no figures
scenarios    what is measured
report       tables
targets      what is to be reached
"""
