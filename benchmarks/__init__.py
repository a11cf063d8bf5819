"""Measurements of Unbroken beside what it could be measured against: ``python -m benchmarks``. Linux only.

machine      what the figures were measured on
processes    start, pin, observe and end the servers
contenders   who is measured
load         the load generator, a process of its own
floor        servers that do nothing, the upper bound of ours
raw          the same batches written to a plain file, the lower bound of a durable store
verify       read everything back: a server that loses data has no figures
scenarios    what is measured
report       tables
"""
