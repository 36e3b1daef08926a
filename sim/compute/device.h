// A GPU as its data sheet has it: what the formulas of sim/compute start from.

#ifndef SIM_COMPUTE_DEVICE_H_
#define SIM_COMPUTE_DEVICE_H_

namespace strata {

struct Device {
  double num_sms = 0;
  double bf16_flops = 0;  // a second, dense
  double fp8_flops = 0;   // a second, dense; 0 where there is no FP8
  double memory_bytes_per_s = 0;
  double l2_bytes = 0;
};

}  // namespace strata

#endif  // SIM_COMPUTE_DEVICE_H_
