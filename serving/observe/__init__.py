"""What a server tells of itself besides its log lines: one line for each request, traces, metrics of GPUs and under the
names of other servers. `observation` puts it together; all of it is off, or costs next to nothing, unless asked for."""
