"""Models behind HTTP: the client that runs protocols against servers (remote_engine is its public face).

address: where a server is. exchange: one request. identity: what a server says that it runs. fleet: several servers,
with the calls that run on them. rendering: prompts as token ids. remote_sampler: the samples of a protocol.
"""
