"""A model behind HTTP: the client that runs protocols against servers (engine is its public face).

address: where a server is. exchange: one request. identity: what a server says that it runs. fleet: several servers,
with the calls that run on them. rendering: prompts as token ids. completion: a sample as llama-server has it. sampler:
where protocols get their samples.
"""
