#include "training/balance/gate_use.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/model/moe.h"
#include "core/monitor/expert_use.h"
#include "training/expert_meter.h"

namespace strata {

std::vector<int> NumExperts(const ExpertMeter& meter) {
  std::vector<int> experts;
  for (const RouterValues& router : meter.routers()) {
    experts.push_back(static_cast<int>(router.num_experts));
  }
  return experts;
}

std::vector<GateUse> GatesOf(const ExpertMeter& meter) {
  std::vector<GateUse> gates;
  for (size_t i = 0; i < meter.routers().size(); ++i) {
    const std::vector<int64_t>& load = meter.load(static_cast<int>(i));
    gates.push_back({meter.routers()[i].tier,
                     meter.reached(static_cast<int>(i)),
                     {load.begin(), load.end()}});
  }
  return gates;
}

}  // namespace strata
