#include "ops/shared_noise.h"

#include <torch/library.h>

#include "cpu/shared_noise.h"

namespace hivis {
namespace {

void shared_noise_cpu(const SharedNoiseParams& p, at::Device) { cpu::shared_noise(p); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kSharedNoiseSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("shared_noise", &shared_noise_op<shared_noise_cpu>); }

}  // namespace hivis
