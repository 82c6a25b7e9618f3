#include "rpc_servers.h"

#include "errors.h"

#include "ggml-rpc.h"

#include <array>
#include <utility>

namespace darwin_neg {

namespace {

// Functions of the backend, which may be a plug-in. Throws Error where there is none, or not that of this build.
template <typename Function>
Function function_of_rpc(const char * name) {
    ggml_backend_reg_t reg = ggml_backend_reg_by_name("RPC");
    void * function        = reg == nullptr ? nullptr : ggml_backend_reg_get_proc_address(reg, name);
    if (function == nullptr) {
        throw Error("this build has no RPC backend, which rpc_servers needs; build it with -DDARWIN_NEG_RPC=ON");
    }
    return reinterpret_cast<Function>(function);
}

// Why a server does not answer; "" while it does.
std::string failure_of(const std::string & server) {
    using ServerLost          = bool (*)(const char * endpoint, char * why, size_t size);
    const auto server_lost    = function_of_rpc<ServerLost>("ggml_backend_rpc_server_lost");
    std::array<char, 256> why = {};
    const bool lost           = server_lost(server.c_str(), why.data(), why.size());
    return lost ? std::string(why.data()) : std::string();
}

}  // namespace

RpcServers::RpcServers(std::vector<std::string> servers) : servers_(std::move(servers)) {
    for (const std::string & server : servers_) {
        const auto add_server  = function_of_rpc<decltype(&ggml_backend_rpc_add_server)>("ggml_backend_rpc_add_server");
        ggml_backend_reg_t reg = add_server(server.c_str());
        for (size_t i = 0; reg != nullptr && i < ggml_backend_reg_dev_count(reg); ++i) {
            devices_.push_back(ggml_backend_reg_dev_get(reg, i));
        }
        if (reg != nullptr) {
            connections_.emplace_back(ggml_backend_dev_init(devices_.back(), nullptr));
        }
        std::string why = failure_of(server);
        if (reg == nullptr && why.empty()) {
            why = "it has no devices";
        }
        if (!why.empty()) {
            throw Error("no RPC server answers at " + server + " (" + why +
                        "); correct rpc_servers, or start `darwin-neg rpc-server` there, which serves one program at a "
                        "time");
        }
    }
}

std::string RpcServers::lost() const {
    for (const std::string & server : servers_) {
        const std::string why = failure_of(server);
        if (!why.empty()) {
            return "the RPC server " + server + " is gone (" + why + "); load the model again when it is back";
        }
    }
    return "";
}

void RpcServers::disconnect() const {
    using Disconnect = void (*)(const char * endpoint);
    for (const std::string & server : servers_) {
        function_of_rpc<Disconnect>("ggml_backend_rpc_disconnect")(server.c_str());
    }
}

void run_rpc_server(const std::string & address, const std::string & cache, size_t n_threads,
                    std::vector<ggml_backend_dev_t> devices) {
    const auto start = function_of_rpc<decltype(&ggml_backend_rpc_start_server)>("ggml_backend_rpc_start_server");
    start(address.c_str(), cache.empty() ? nullptr : cache.c_str(), n_threads, devices.size(), devices.data());
}

}  // namespace darwin_neg
