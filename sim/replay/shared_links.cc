#include "sim/replay/shared_links.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "sim/collective/collective.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

// Tags: what is due, of which communication, in which generation.
constexpr uint64_t kSettle = 0;
constexpr uint64_t kBeginWork = 1;
constexpr uint64_t kEnd = 2;

uint64_t TagOf(uint64_t what, int id, uint32_t generation) {
  return what | static_cast<uint64_t>(id) << 2 |
         static_cast<uint64_t>(generation) << 32;
}

// Where the sum of shares on a link misses 1 by rounding alone.
constexpr double kRounding = 1e-12;

}  // namespace

SharedLinks::SharedLinks(int num_links, EventQueue& queue)
    : queue_(&queue),
      users_(num_links),
      link_mark_(num_links),
      residual_(num_links),
      demand_(num_links) {}

void SharedLinks::Start(Picoseconds latency, Picoseconds work,
                        absl::Span<const LinkShare> links,
                        EventHandler* handler, uint64_t tag) {
  int id = 0;
  if (free_.empty()) {
    id = static_cast<int>(communications_.size());
    communications_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  Communication& communication = communications_[id];
  communication.links = links;
  communication.handler = handler;
  communication.tag = tag;
  communication.left = static_cast<double>(work);
  communication.speed = 0;
  communication.works = false;
  ++communication.generation;
  queue_->Schedule(AddTime(queue_->now(), latency), this,
                   TagOf(kBeginWork, id, communication.generation));
}

void SharedLinks::OnEvent(Picoseconds now, uint64_t tag) {
  const uint64_t what = tag & 3;
  if (what == kSettle) {
    Settle(now);
    return;
  }
  const int id = static_cast<int>(tag >> 2 & 0x3fffffff);
  if (communications_[id].generation != tag >> 32) return;  // Stale.
  if (what == kBeginWork) {
    BeginWork(now, id);
  } else {
    End(now, id);
  }
}

void SharedLinks::BeginWork(Picoseconds now, int id) {
  Communication& communication = communications_[id];
  communication.works = true;
  communication.updated = now;
  if (communication.left <= 0 || communication.links.empty()) {
    ++communication.generation;
    queue_->Schedule(AddTime(now, static_cast<Picoseconds>(communication.left)),
                     this, TagOf(kEnd, id, communication.generation));
    communication.links = {};
    return;
  }
  for (const LinkShare& share : communication.links) {
    users_[share.link].push_back(id);
  }
  MarkDirty(now, communication.links);
}

void SharedLinks::End(Picoseconds now, int id) {
  Communication& communication = communications_[id];
  for (const LinkShare& share : communication.links) {
    std::vector<int>& users = users_[share.link];
    users.erase(std::find(users.begin(), users.end(), id));
  }
  MarkDirty(now, communication.links);
  EventHandler* const handler = communication.handler;
  const uint64_t tag = communication.tag;
  communication.works = false;
  ++communication.generation;
  free_.push_back(id);
  handler->OnEvent(now, tag);
}

void SharedLinks::MarkDirty(Picoseconds now,
                            absl::Span<const LinkShare> links) {
  if (links.empty()) return;
  for (const LinkShare& share : links) dirty_.push_back(share.link);
  if (settle_is_scheduled_) return;
  settle_is_scheduled_ = true;
  queue_->Schedule(now, this, kSettle);
}

void SharedLinks::Advance(Picoseconds now, Communication& communication) {
  communication.left =
      std::max(0.0, communication.left -
                        static_cast<double>(now - communication.updated) *
                            communication.speed);
  communication.updated = now;
}

void SharedLinks::Settle(Picoseconds now) {
  settle_is_scheduled_ = false;
  ++mark_;
  for (const LinkId link : dirty_) {
    if (link_mark_[link] == mark_) continue;
    CollectComponent(link);
    SolveComponent(now);
  }
  dirty_.clear();
}

void SharedLinks::CollectComponent(LinkId seed) {
  component_.clear();
  component_links_.assign(1, seed);
  link_mark_[seed] = mark_;
  for (size_t i = 0; i < component_links_.size(); ++i) {
    for (const int id : users_[component_links_[i]]) {
      Communication& communication = communications_[id];
      if (communication.mark == mark_) continue;
      communication.mark = mark_;
      component_.push_back(id);
      for (const LinkShare& share : communication.links) {
        if (link_mark_[share.link] == mark_) continue;
        link_mark_[share.link] = mark_;
        component_links_.push_back(share.link);
      }
    }
  }
}

// Speeds rise together until a link is full, which fixes those that use it.
void SharedLinks::SolveComponent(Picoseconds now) {
  if (component_.empty()) return;
  for (const LinkId link : component_links_) {
    residual_[link] = 1;
    demand_[link] = 0;
  }
  open_ = component_;
  for (const int id : open_) {
    for (const LinkShare& share : communications_[id].links) {
      demand_[share.link] += share.share;
    }
  }
  while (!open_.empty()) {
    double level = 1;
    for (const LinkId link : component_links_) {
      if (demand_[link] > kRounding) {
        level = std::min(level, std::max(0.0, residual_[link]) / demand_[link]);
      }
    }
    const auto is_fixed = [&](int id) {
      if (level >= 1) return true;
      for (const LinkShare& share : communications_[id].links) {
        if (residual_[share.link] <=
            level * demand_[share.link] * (1 + kRounding) + kRounding) {
          return true;
        }
      }
      return false;
    };
    // First all, then the links' residuals, which is_fixed reads.
    fixed_.clear();
    rest_.clear();
    for (const int id : open_) (is_fixed(id) ? fixed_ : rest_).push_back(id);
    for (const int id : fixed_) {
      communications_[id].new_speed = level;
      for (const LinkShare& share : communications_[id].links) {
        residual_[share.link] -= level * share.share;
        demand_[share.link] -= share.share;
      }
    }
    open_.swap(rest_);
  }
  for (const int id : component_) {
    Communication& communication = communications_[id];
    if (communication.new_speed == communication.speed) continue;
    Advance(now, communication);
    communication.speed = communication.new_speed;
    ++communication.generation;
    queue_->Schedule(
        AddTime(now, FromSeconds(communication.left / communication.speed /
                                 kPicosecondsPerSecond)),
        this, TagOf(kEnd, id, communication.generation));
  }
}

}  // namespace strata::sim
