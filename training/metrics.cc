#include "training/metrics.h"

#include "nlohmann/json.hpp"

namespace strata {

nlohmann::json ToJson(const ExpertUse& use) {
  return {{"active_share", use.active_share},
          {"flops_per_token", use.flops_per_token},
          {"gini", use.gini},
          {"utilisation", use.utilisation},
          {"starved_share", use.starved_share},
          {"tier_tokens", use.tier_tokens}};
}

nlohmann::json ToJson(const ExpertMove& move) {
  return {{"layer", move.layer},
          {"tier", move.tier},
          {"experts", move.experts},
          {"bytes", move.bytes},
          {"seconds", move.seconds},
          {"spread_before", move.spread_before},
          {"spread_after", move.spread_after},
          {"slots_left", move.slots_left}};
}

nlohmann::json ToJson(const StepMetrics& metrics) {
  return {{"kind", "step"},
          {"step", metrics.step},
          {"loss", metrics.loss},
          {"total_loss", metrics.total_loss},
          {"learning_rate", metrics.learning_rate},
          {"grad_norm", metrics.grad_norm},
          {"layer_grad_norms", metrics.layer_grad_norms},
          {"tokens", metrics.tokens},
          {"seconds", metrics.seconds},
          {"experts", ToJson(metrics.experts)}};
}

nlohmann::json ToJson(const ValidationMetrics& metrics) {
  nlohmann::json domains = nlohmann::json::object();
  for (const DomainMetrics& domain : metrics.domains) {
    domains[domain.name] = {{"tokens", domain.tokens},
                            {"bytes", domain.bytes},
                            {"nll", domain.nll},
                            {"bits_per_byte", domain.bits_per_byte},
                            {"accuracy", domain.accuracy}};
  }
  nlohmann::json loads = nlohmann::json::array();
  for (const RouterLoad& router : metrics.loads) {
    loads.push_back({{"layer", router.layer},
                     {"tier", router.tier},
                     {"load", router.load}});
  }
  return {{"kind", "validation"},
          {"step", metrics.step},
          {"nll", metrics.nll},
          {"bits_per_byte", metrics.bits_per_byte},
          {"accuracy", metrics.accuracy},
          {"domains", domains},
          {"seconds", metrics.seconds},
          {"experts", ToJson(metrics.experts)},
          {"loads", loads}};
}

}  // namespace strata
