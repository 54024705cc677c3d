// tree_attention on the CPU.
#pragma once

#include "core/tree_attention_params.h"

namespace hivis::cpu {

// Floats of workspace: 0 unless few blocks of rows have to share many threads.
int64_t tree_attention_workspace(const TreeAttentionParams& params);

// workspace: tree_attention_workspace floats, whatever they hold; null if that is 0.
void tree_attention(const TreeAttentionParams& params, float* workspace);

}  // namespace hivis::cpu
