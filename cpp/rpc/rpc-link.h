#pragma once

// What ggml's RPC backend needs so that a server on another machine which cannot be reached, or is lost, is an error and
// not the end of the process. Internal: used by the patched ggml-rpc.cpp and transport.cpp alone.

#include <cstddef>
#include <cstdint>
#include <string>

#ifdef _WIN32
typedef uintptr_t rpc_fd; // SOCKET
#else
typedef int rpc_fd;
#endif

struct sockaddr_in;

// a peer that is gone is an error, not a signal
extern const int RPC_SEND_FLAGS;

// What goes with a socket.
struct rpc_link {
    int         timeout = 0; // seconds that a call waits for the peer, 0: any time
    std::string failure;     // why a call failed

    // Whether send() or recv(), which returned n, was interrupted and must be called again. Keeps why it failed.
    bool again(long long n);
    void set_timeout(rpc_fd fd, int seconds);
};

// Seconds that a handshake may take, and that an answer may: GGML_RPC_TIMEOUT, or 10 minutes, since it may be that of a
// long computation.
extern const int RPC_HANDSHAKE_SECONDS;
int rpc_answer_seconds();

// connect() that gives up after RPC_HANDSHAKE_SECONDS. Where it fails the socket is closed.
bool        rpc_connect(rpc_fd fd, const sockaddr_in & addr);
std::string rpc_connect_failure(); // why this thread's last one failed; "" where the host's name is not known

// accept() that signals do not interrupt.
rpc_fd rpc_accept(rpc_fd fd);

// Ends both directions; from any thread.
void rpc_shut_down(rpc_fd fd);

// Servers that could not be reached or are lost, by HOST:PORT. why == "": an answer that makes no sense.
void rpc_set_failure(const std::string & endpoint, const std::string & why);
void rpc_clear_failure(const std::string & endpoint);
// Whether a server is one of them; writes why. The registry hands this out as ggml_backend_rpc_server_lost.
bool rpc_server_lost(const char * endpoint, char * why, size_t size);
