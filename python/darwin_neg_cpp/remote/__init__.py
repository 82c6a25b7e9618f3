"""A model behind HTTP: the client that runs protocols against servers (engine is its public face).

address: where a server is. exchange: one request. identity: what a server says that it runs; introduction: how it is
asked. calls: requests that are made until they succeed; fleet: several servers, and the calls that run on them.
rendering: prompts as token ids. completion: a sample as llama-server has it. sampler: where protocols get theirs.
"""
