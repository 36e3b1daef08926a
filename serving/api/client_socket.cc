#include "serving/api/client_socket.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"

namespace strata {
namespace {

bool IsPeer(int fd, const std::string& address, int port) {
  sockaddr_storage peer = {};
  socklen_t size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
    return false;
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (peer.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(peer);
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return ntohs(in.sin_port) == port && address == text;
  }
  if (peer.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(peer);
    inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof(text));
    return ntohs(in.sin6_port) == port && address == text;
  }
  return false;
}

}  // namespace

int FindSocketOfPeer(const std::string& address, int port) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/proc/self/fd"),
                                                closedir);
  if (dir == nullptr) return -1;
  while (const dirent* const entry = readdir(dir.get())) {
    int fd = -1;
    if (absl::SimpleAtoi(entry->d_name, &fd) && IsPeer(fd, address, port)) {
      return fd;
    }
  }
  return -1;
}

bool PeerHasLeft(int socket) {
  if (socket < 0) return false;
  pollfd poll_fd = {socket, POLLRDHUP, 0};
  if (poll(&poll_fd, 1, /*timeout=*/0) <= 0) return false;
  return (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace strata
