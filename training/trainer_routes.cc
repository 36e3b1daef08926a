// Who chooses a trainer's experts, and how it describes a trace of them.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/manifest.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/trace/routing_replay.h"
#include "core/trace/routing_trace.pb.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {

std::string Describe(const RouteOptions& route) {
  switch (route.source) {
    case RouteSource::kReplay:
      return absl::StrCat("replay of ", route.replay);
    case RouteSource::kBalanced:
      return "forced-balance";
    case RouteSource::kGate:
      break;
  }
  return "gate";
}

bool Trainer::Replays(RoutingTraceHeader::Source source) const {
  return RouteOf(source) == RouteSource::kReplay;
}

RouteSource Trainer::RouteOf(RoutingTraceHeader::Source source) const {
  const RouteSource route = options_.route.source;
  return route == RouteSource::kReplay && source != options_.replayed
             ? RouteSource::kGate
             : route;
}

absl::Status Trainer::OpenReplay() {
  if (options_.route.source != RouteSource::kReplay) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      replay_, RoutingReplay::Open(options_.route.replay,
                                   TraceHeader(options_.replayed), routers_));
  return absl::OkStatus();
}

RoutingTraceHeader Trainer::TraceHeader(
    RoutingTraceHeader::Source source) const {
  const Manifest manifest = NewManifest();
  RoutingTraceHeader header;
  header.set_recorded_by(source);
  header.set_model_name(model_.name());
  header.set_model_hash(Sha256Hex(ToJson(model_)));
  for (const Domain& domain : corpus_->domains) {
    header.add_domains(domain.name);
  }
  header.set_version(manifest.version);
  header.set_commit(manifest.commit);
  header.set_seed(train_.seed());
  header.set_data_hash(corpus_->sha256);
  header.set_date(manifest.date);
  return header;
}

}  // namespace strata
