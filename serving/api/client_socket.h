// Whether the client of a request is still there.

#ifndef SERVING_API_CLIENT_SOCKET_H_
#define SERVING_API_CLIENT_SOCKET_H_

#include <string>

namespace strata {

// The socket of this process whose peer is that address and port; -1 if there
// is none. The HTTP library does not tell handlers their socket; it stays open
// while the handler runs. Takes a system call for each open file.
int FindSocketOfPeer(const std::string& address, int port);

// Whether the other side has closed, or half closed, the connection. False for
// socket -1.
bool PeerHasLeft(int socket);

}  // namespace strata

#endif  // SERVING_API_CLIENT_SOCKET_H_
