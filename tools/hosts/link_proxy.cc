// Joins network namespaces by a link that delays and loses packets, so that
// they are hosts apart on one machine:
//
//   link_proxy DELAY_MS JITTER_MS LOSS SEED NAMESPACE=ADDRESS...
//   link_proxy 2 1 0.01 1 /proc/100/ns/net=10.77.0.1 /proc/200/ns/net=10.77.0.2
//
//   namespace 1                                       namespace 2
//   strata0, a TUN device ── this process ── strata0, a TUN device
//   10.77.0.1/24           tools/hosts/lossy_link.h    10.77.0.2/24
//
// It wants root. Prints "ready" once the devices are up, and at SIGTERM how
// many packets there were; ends with the process that started it. SIGUSR1 cuts
// the link, SIGUSR2 mends it. It has no way out of these namespaces: what is
// not for one of the addresses is dropped.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "tools/hosts/lossy_link.h"

namespace strata {
namespace {

constexpr char kDevice[] = "strata0";
constexpr char kNetmask[] = "255.255.255.0";
// Of an IPv4 header: where the address that it goes to begins, and its length.
constexpr int kDestination = 16;
constexpr int kHeaderBytes = 20;
constexpr int kMaxPacketBytes = 1 << 16;

absl::Status Failure(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

sockaddr AddressOf(in_addr address) {
  sockaddr_in internet = {};
  internet.sin_family = AF_INET;
  internet.sin_addr = address;
  sockaddr any;
  std::memcpy(&any, &internet, sizeof(any));
  return any;
}

// The device of the namespace that this thread is in; up, with that address.
absl::StatusOr<int> OpenDevice(in_addr address) {
  // A device is of the namespace in which the file was opened.
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return Failure("/dev/net/tun");
  ifreq request = {};
  std::strncpy(request.ifr_name, kDevice, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (ioctl(fd, TUNSETIFF, &request) != 0) return Failure(kDevice);

  const int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket_fd < 0) return Failure("socket");
  const auto set = [&](unsigned long what) {
    return ioctl(socket_fd, what, &request) == 0;
  };
  in_addr netmask;
  inet_pton(AF_INET, kNetmask, &netmask);
  request.ifr_addr = AddressOf(address);
  bool is_up = set(SIOCSIFADDR);
  request.ifr_netmask = AddressOf(netmask);
  is_up = is_up && set(SIOCSIFNETMASK);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  is_up = is_up && set(SIOCSIFFLAGS);
  const absl::Status status = is_up ? absl::OkStatus() : Failure(kDevice);
  close(socket_fd);
  if (!status.ok()) return status;
  return fd;
}

class Proxy {
 public:
  explicit Proxy(const LinkOptions& options) : link_(options) {}

  // `host` is NAMESPACE=ADDRESS.
  absl::Status Add(absl::string_view host) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(host, absl::MaxSplits('=', 1));
    in_addr address;
    if (inet_pton(AF_INET, parts.second.c_str(), &address) != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(host, " is not NAMESPACE=ADDRESS"));
    }
    const int space = open(parts.first.c_str(), O_RDONLY | O_CLOEXEC);
    if (space < 0) return Failure(parts.first);
    const int entered = setns(space, CLONE_NEWNET);
    close(space);
    if (entered != 0) return Failure(parts.first);
    ASSIGN_OR_RETURN(const int device, OpenDevice(address));
    host_[address.s_addr] = devices_.size();
    devices_.push_back(device);
    return absl::OkStatus();
  }

  // Until a signal ends it.
  absl::Status Run(int signals) {
    std::vector<pollfd> polled = {{signals, POLLIN, 0}};
    for (const int device : devices_) polled.push_back({device, POLLIN, 0});
    for (;;) {
      const absl::Duration wait = std::clamp(
          link_.next() - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
      const timespec at_most = absl::ToTimespec(wait);
      if (ppoll(polled.data(), polled.size(), &at_most, nullptr) < 0 &&
          errno != EINTR) {
        return Failure("poll");
      }
      if ((polled[0].revents & POLLIN) != 0 && Ends(signals)) break;
      for (size_t i = 1; i < polled.size(); ++i) {
        if ((polled[i].revents & POLLIN) != 0) Take(polled[i].fd);
      }
      while (const std::optional<Packet> packet = link_.Due(absl::Now())) {
        // A device whose queue is full drops it, as a host does.
        const ssize_t written = write(
            devices_[packet->to], packet->bytes.data(), packet->bytes.size());
        static_cast<void>(written);
      }
    }
    std::fprintf(stderr, "link: %s packets, %s lost\n",
                 absl::StrCat(link_.sent()).c_str(),
                 absl::StrCat(link_.lost()).c_str());
    return absl::OkStatus();
  }

 private:
  // What a device wants sent.
  void Take(int device) {
    for (ssize_t n; (n = read(device, buffer_, sizeof(buffer_))) > 0;) {
      uint32_t to;
      if (n < kHeaderBytes || buffer_[0] >> 4 != 4) continue;
      std::memcpy(&to, buffer_ + kDestination, sizeof(to));
      const auto host = host_.find(to);
      if (host == host_.end()) continue;
      link_.Send(absl::Now(), {host->second, std::string(buffer_, n)});
    }
  }

  // Whether the signal that came is one that ends the process.
  bool Ends(int signals) {
    signalfd_siginfo info;
    if (read(signals, &info, sizeof(info)) != sizeof(info)) return false;
    if (info.ssi_signo == SIGUSR1) link_.Cut();
    if (info.ssi_signo == SIGUSR2) link_.Mend();
    return info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
  }

  LossyLink link_;
  std::map<uint32_t, int> host_;  // By address.
  std::vector<int> devices_;      // [hosts]
  char buffer_[kMaxPacketBytes];
};

absl::Status Run(int argc, char** argv) {
  double delay_ms = 0, jitter_ms = 0;
  LinkOptions options;
  if (argc < 6 || !absl::SimpleAtod(argv[1], &delay_ms) ||
      !absl::SimpleAtod(argv[2], &jitter_ms) ||
      !absl::SimpleAtod(argv[3], &options.loss) ||
      !absl::SimpleAtoi(argv[4], &options.seed)) {
    return absl::InvalidArgumentError(
        "want DELAY_MS JITTER_MS LOSS SEED NAMESPACE=ADDRESS...");
  }
  if (!(jitter_ms >= 0 && jitter_ms <= delay_ms && options.loss >= 0 &&
        options.loss <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the delay is ", delay_ms, " +- ", jitter_ms, " ms, the loss ",
        options.loss, "; want a jitter of 0 to the delay, a loss of 0 to 1"));
  }
  options.delay = absl::Milliseconds(delay_ms);
  options.jitter = absl::Milliseconds(jitter_ms);

  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    sigaddset(&signals, signal);
  }
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signal_fd < 0) return Failure("signalfd");

  Proxy proxy(options);
  for (int i = 5; i < argc; ++i) RETURN_IF_ERROR(proxy.Add(argv[i]));
  std::puts("ready");
  std::fflush(stdout);
  return proxy.Run(signal_fd);
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  const absl::Status status = strata::Run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "link_proxy: %s\n",
               std::string(status.message()).c_str());
  return 1;
}
