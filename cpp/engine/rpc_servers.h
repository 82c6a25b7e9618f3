#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <string>
#include <vector>

namespace darwin_neg {

// Other machines that lend their devices, by ggml's RPC backend. Once a connection is lost it stays lost: whoever
// computes with it gets errors until everything that uses the server is closed.
class RpcServers {
public:
    RpcServers() = default;
    // servers: each HOST:PORT. Throws Error, at once or after a few seconds, for one that does not answer.
    explicit RpcServers(std::vector<std::string> servers);

    const std::vector<ggml_backend_dev_t> & devices() const { return devices_; }

    // Which of them does not answer any more, as one line; "" while all of them do.
    std::string lost() const;

    // Ends the connections, so that whoever waits for an answer waits no longer.
    void disconnect() const;

private:
    std::vector<std::string> servers_;
    std::vector<ggml_backend_dev_t> devices_;
    std::vector<ggml_backend_ptr> connections_;  // a server serves one program at a time: it stays ours
};

// Lends devices of this machine to one program at a time. Returns only when the server could not be started.
// address: HOST:PORT, with an IPv4 address. cache: folder for large tensors, "": none. Throws Error without the
// backend.
void run_rpc_server(const std::string & address, const std::string & cache, size_t n_threads,
                    std::vector<ggml_backend_dev_t> devices);

}  // namespace darwin_neg
