"""llama.cpp's HTTP server, with the NEG stage, in this process."""
