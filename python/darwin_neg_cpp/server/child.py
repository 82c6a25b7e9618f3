"""What llama-server's router starts for each of its models: `python child.py ARG...` is a server with these arguments.

Python is the program that the router finds itself to be, perhaps without the virtual environment that it runs in, so
that nothing but the standard library and the package itself may be needed here.
"""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    package = Path(__file__).resolve().parents[1]
    sys.path[0] = str(package.parent)
    sys.exit(import_module(f"{package.name}.server.process").run_llama_server(sys.argv[1:]))
