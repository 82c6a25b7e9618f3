#include "rpc-link.h"

#include "ggml-impl.h"

#ifdef _WIN32
#  define WIN32_LEAN_AND_MEAN
#  ifndef NOMINMAX
#    define NOMINMAX
#  endif
#  include <winsock2.h>
#  include <ws2tcpip.h>
#else
#  include <fcntl.h>
#  include <netinet/in.h>
#  include <netinet/tcp.h>
#  include <poll.h>
#  include <sys/socket.h>
#  include <sys/time.h>
#  include <unistd.h>
#endif
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <unordered_map>

#ifdef MSG_NOSIGNAL
const int RPC_SEND_FLAGS = MSG_NOSIGNAL;
#else
const int RPC_SEND_FLAGS = 0;
#endif
const int RPC_HANDSHAKE_SECONDS = 5;

static thread_local std::string connect_failure;

static std::mutex                                   failures_mutex;
static std::unordered_map<std::string, std::string> failures;

#ifdef _WIN32
static int  last_error()      { return WSAGetLastError(); }
static bool was_interrupted() { return false; }
static bool was_timeout()     { return WSAGetLastError() == WSAETIMEDOUT; }
static bool was_closed()      { return WSAGetLastError() == WSAECONNRESET || WSAGetLastError() == WSAECONNABORTED; }
static bool is_valid(rpc_fd fd) { return fd != INVALID_SOCKET; }
#else
static int  last_error()      { return errno; }
static bool was_interrupted() { return errno == EINTR; }
static bool was_timeout()     { return errno == EAGAIN || errno == EWOULDBLOCK; }
static bool was_closed()      { return errno == EPIPE || errno == ECONNRESET; }
static bool is_valid(rpc_fd fd) { return fd >= 0; }
#endif

static void set_option(rpc_fd fd, int level, int name, int value) {
    setsockopt(fd, level, name, (const char *) &value, sizeof(value));
}

// A machine that vanishes without a word is noticed within a minute.
static void keep_alive(rpc_fd fd) {
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef SO_NOSIGPIPE
    set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
#ifdef TCP_KEEPIDLE
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 20);
#endif
#ifdef TCP_KEEPINTVL
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
#endif
#ifdef TCP_KEEPCNT
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
#endif
#ifdef TCP_USER_TIMEOUT
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 40 * 1000);
#endif
}

static void set_blocking(rpc_fd fd, bool blocking) {
#ifdef _WIN32
    u_long mode = blocking ? 0 : 1;
    ioctlsocket(fd, FIONBIO, &mode);
#else
    const int flags = fcntl(fd, F_GETFL, 0);
    fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
#endif
}

// Waits for a connection that is being made. Returns the error, 0 for none.
static int wait_until_connected(rpc_fd fd) {
#ifdef _WIN32
    fd_set done;
    fd_set failed;
    FD_ZERO(&done);
    FD_ZERO(&failed);
    FD_SET(fd, &done);
    FD_SET(fd, &failed);
    timeval limit = { RPC_HANDSHAKE_SECONDS, 0 };
    if (select(0, nullptr, &done, &failed, &limit) <= 0) {
        return WSAETIMEDOUT;
    }
    int size = sizeof(int);
#else
    pollfd done = { fd, POLLOUT, 0 };
    int    n;
    do {
        n = poll(&done, 1, RPC_HANDSHAKE_SECONDS * 1000);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        return ETIMEDOUT;
    }
    socklen_t size = sizeof(int);
#endif
    int error = 0;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, (char *) &error, &size);
    return error;
}

bool rpc_connect(rpc_fd fd, const sockaddr_in & addr) {
    set_blocking(fd, false);
    int error = connect(fd, (const sockaddr *) &addr, sizeof(addr)) < 0 ? last_error() : 0;
#ifdef _WIN32
    const bool started = error == WSAEWOULDBLOCK;
#else
    const bool started = error == EINPROGRESS;
#endif
    if (started) {
        error = wait_until_connected(fd);
    }
    set_blocking(fd, true);
    keep_alive(fd);
    connect_failure = error != 0 ? std::system_category().message(error) : "";
    if (error != 0) {
#ifdef _WIN32
        closesocket(fd);
#else
        close(fd);
#endif
    }
    return error == 0;
}

std::string rpc_connect_failure() {
    std::string why;
    why.swap(connect_failure);
    return why.empty() ? "the name of the host is not known" : why;
}

rpc_fd rpc_accept(rpc_fd fd) {
    rpc_fd client;
    do {
        client = accept(fd, nullptr, nullptr);
    } while (!is_valid(client) && was_interrupted());
    if (is_valid(client)) {
        keep_alive(client);
    }
    return client;
}

void rpc_shut_down(rpc_fd fd) {
    shutdown(fd, 2);
}

bool rpc_link::again(long long n) {
    if (n < 0 && was_interrupted()) {
        return true;
    }
    if (n == 0 || (n < 0 && was_closed())) {  // whether reading or writing notices it first is chance
        failure = "the connection was closed";
    } else if (n < 0) {
        failure = was_timeout() ? "no answer for " + std::to_string(timeout) + " s"
                                : std::system_category().message(last_error());
    }
    return false;
}

void rpc_link::set_timeout(rpc_fd fd, int seconds) {
    timeout = seconds;
#ifdef _WIN32
    const DWORD limit = seconds * 1000;
#else
    timeval limit = {};
    limit.tv_sec  = seconds;
#endif
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, (const char *) &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, (const char *) &limit, sizeof(limit));
}

int rpc_answer_seconds() {
    const char * text  = std::getenv("GGML_RPC_TIMEOUT");
    const int    given = text ? std::atoi(text) : 0;
    return given > 0 ? given : 600;
}

void rpc_set_failure(const std::string & endpoint, const std::string & why) {
    const std::lock_guard<std::mutex> lock(failures_mutex);
    std::string & kept = failures[endpoint];
    kept = why.empty() ? "what it says is not this version's protocol" : why;
    GGML_LOG_ERROR("the RPC server %s does not answer: %s\n", endpoint.c_str(), kept.c_str());
}

void rpc_clear_failure(const std::string & endpoint) {
    const std::lock_guard<std::mutex> lock(failures_mutex);
    failures.erase(endpoint);
}

bool rpc_server_lost(const char * endpoint, char * why, size_t size) {
    const std::lock_guard<std::mutex> lock(failures_mutex);
    const auto found = failures.find(endpoint);
    if (found == failures.end()) {
        return false;
    }
    snprintf(why, size, "%s", found->second.c_str());
    return true;
}
