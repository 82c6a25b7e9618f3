#pragma once

// llama.cpp's handles with owners, and a batch that is filled token by token: the engine's own.

#include "batch.h"
#include "model.h"

using Model   = darwin_neg::LlamaModelPtr;
using Context = darwin_neg::LlamaContextPtr;
using darwin_neg::Batch;
