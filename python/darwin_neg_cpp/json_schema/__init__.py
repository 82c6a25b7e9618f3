"""JSON schemas for answers: every keyword is obeyed, or refused by name.

llama.cpp's converter leaves out, without an error, what it does not know. Schemas that it obeys in full are passed on
as they are; of all others a grammar is made here.
"""

from .schema import obeyed_text as obeyed_text
