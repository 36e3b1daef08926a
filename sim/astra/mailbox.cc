#include "sim/astra/mailbox.h"

#include <cstdint>
#include <optional>

#include "core/base/check.h"

namespace strata::astra {

uint32_t Mailbox::Open(uint32_t tag, int src, int dst, uint64_t bytes) {
  const auto [entry, is_new] =
      channel_of_.try_emplace({tag, src, dst, bytes}, 0);
  if (is_new) {
    if (free_channel_ == kNone) {
      free_channel_ = static_cast<uint32_t>(channels_.size());
      channels_.emplace_back();
    }
    entry->second = free_channel_;
    Channel& channel = channels_[free_channel_];
    free_channel_ = channel.first_waiting;
    channel = Channel();
    channel.tag = tag;
    channel.src = src;
    channel.dst = dst;
    channel.bytes = bytes;
  }
  ++channels_[entry->second].num_users;
  return entry->second;
}

void Mailbox::Close(uint32_t channel) {
  CHECK(channels_[channel].num_users > 0);
  --channels_[channel].num_users;
  FreeIfIdle(channel);
}

std::optional<uint64_t> Mailbox::Arrive(uint32_t index) {
  Channel& channel = channels_[index];
  --channel.num_under_way;
  const uint32_t waiting = channel.first_waiting;
  if (waiting == kNone) {
    ++channel.num_arrived;
    return std::nullopt;
  }
  channel.first_waiting = waiting_[waiting].next;
  if (channel.first_waiting == kNone) channel.last_waiting = kNone;
  waiting_[waiting].next = free_waiting_;
  free_waiting_ = waiting;
  const uint64_t receiver = waiting_[waiting].receiver;
  FreeIfIdle(index);
  return receiver;
}

bool Mailbox::Receive(uint32_t index, uint64_t receiver) {
  Channel& channel = channels_[index];
  if (channel.num_arrived > 0) {
    --channel.num_arrived;
    return true;
  }
  uint32_t waiting = free_waiting_;
  if (waiting == kNone) {
    waiting = static_cast<uint32_t>(waiting_.size());
    waiting_.emplace_back();
  } else {
    free_waiting_ = waiting_[waiting].next;
  }
  waiting_[waiting] = {receiver, kNone};
  (channel.last_waiting == kNone ? channel.first_waiting
                                 : waiting_[channel.last_waiting].next) =
      waiting;
  channel.last_waiting = waiting;
  return false;
}

void Mailbox::FreeIfIdle(uint32_t index) {
  Channel& channel = channels_[index];
  if (channel.num_users > 0 || channel.num_under_way > 0 ||
      channel.num_arrived > 0 || channel.first_waiting != kNone) {
    return;
  }
  channel_of_.erase({channel.tag, channel.src, channel.dst, channel.bytes});
  channel.first_waiting = free_channel_;
  free_channel_ = index;
}

}  // namespace strata::astra
