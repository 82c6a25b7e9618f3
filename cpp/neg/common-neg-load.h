#pragma once

// What the start options ask of a model that has just been loaded, before its first context.

#include "common.h"
#include "log.h"

// Loads the head of --neg-file. False, with one line in the log, where it does not fit or options name a head that is not there.
inline bool common_neg_load(llama_model * model, const common_params & params) {
    char error[1024] = "";
    if (!params.neg_file.empty() && llama_model_load_neg(model, params.neg_file.c_str(), error, sizeof(error)) != 0) {
        LOG_ERR("%s\n", error);
        return false;
    }
    if (params.sampling.neg.action > LLAMA_NEG_OFF && !llama_model_neg_info(model).present) {
        LOG_ERR("--neg: %s has no NEG head; give one with --neg-file, or leave the option out\n", params.model.path.c_str());
        return false;
    }
    return true;
}
