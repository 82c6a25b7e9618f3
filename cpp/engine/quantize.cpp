#include "quantize.h"

#include "errors.h"
#include "log_sink.h"

#include "imatrix-loader.h"
#include "llama.h"

#include <array>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

namespace darwin_neg {

namespace {

// Mean squares of the activations that meet each column (of each expert), by tensor name.
std::map<std::string, std::vector<float>> read_imatrix(const std::string & path) {
    common_imatrix loaded;
    bool is_one = false;
    try {
        is_one = common_imatrix_load(path, loaded) && !loaded.entries.empty();
    } catch (const std::exception &) {
        is_one = false;  // lengths out of a file of another kind, which no memory is large enough for
    }
    if (!is_one) {
        throw ModelFileError(path + ": is not an importance matrix; make one with llama-imatrix");
    }
    std::map<std::string, std::vector<float>> out;
    for (const auto & [name, entry] : loaded.entries) {
        std::vector<float> & mean = out[name];
        const size_t n_counts     = loaded.is_legacy ? 1 : entry.counts.size();
        if (entry.counts.empty() || entry.sums.size() % n_counts != 0) {
            throw ModelFileError(path + ": " + name + ": its sums and counts do not fit together; make the file again");
        }
        const size_t columns = entry.sums.size() / n_counts;
        for (size_t i = 0; i < entry.sums.size(); ++i) {
            const auto count = static_cast<float>(entry.counts[i / columns]);
            mean.push_back(count > 0 ? entry.sums[i] / count : 1.0f);  // neutral where no token came by
        }
    }
    return out;
}

// "[   1/  20] output.weight - [ 64, 258, 1, 1], type = f32, size = 0.06 MiB -> 0.02 MiB (q8_0)": name and new type.
// Nothing for any other line, and for a tensor that keeps its type.
std::pair<std::string, std::string> name_and_type(const std::string & line) {
    const size_t begin = line.find("] ");
    const size_t end   = line.find(" - [");
    const size_t open  = line.rfind(" MiB (");
    const size_t close = line.rfind(')');
    if (line.empty() || line[0] != '[' || begin == std::string::npos || end == std::string::npos || end < begin + 2 ||
        open == std::string::npos || close == std::string::npos || close < open) {
        return {};
    }
    std::string name = line.substr(begin + 2, end - begin - 2);
    name.erase(name.find_last_not_of(' ') + 1);
    return {name, line.substr(open + 6, close - open - 6)};
}

}  // namespace

std::map<std::string, std::string> quantized_types(const std::string & model, int32_t ftype, bool with_imatrix) {
    install_log_sink();
    // which tensors it is for makes no difference to the choice
    const float one                                       = 1.0f;
    const std::array<llama_model_imatrix_data, 2> entries = {{{"", &one, 1}, {nullptr, nullptr, 0}}};
    llama_model_quantize_params params                    = llama_model_quantize_default_params();
    params.ftype                                          = static_cast<llama_ftype>(ftype);
    params.dry_run                                        = true;
    params.imatrix                                        = with_imatrix ? entries.data() : nullptr;
    std::map<std::string, std::string> out;
    uint32_t rc = 0;
    std::string reason;
    {
        const LineScope scope([&](const LogLine & line) {
            if (auto [name, type] = name_and_type(line.second); !type.empty()) {
                out[name] = type;
            }
            if (line.first >= 40 && reason.empty()) {
                reason = line.second;
            }
        });
        rc = llama_model_quantize(model.c_str(), "", &params);
    }
    if (rc != 0) {
        throw ModelFileError(model +
                             ": cannot be quantized: " + (reason.empty() ? "see the log of llama.cpp" : reason));
    }
    return out;
}

std::map<std::string, size_t> imatrix_sizes(const std::string & path) {
    install_log_sink();
    std::map<std::string, size_t> out;
    for (const auto & [name, values] : read_imatrix(path)) {
        out[name] = values.size();
    }
    return out;
}

void quantize(const std::string & model, const std::string & out, int32_t ftype, const std::string & imatrix,
              bool allow_requantize, int32_t n_threads, QuantizeProgress & progress) {
    install_log_sink();
    const std::map<std::string, std::vector<float>> importance =
        imatrix.empty() ? decltype(importance){} : read_imatrix(imatrix);
    std::vector<llama_model_imatrix_data> entries;
    entries.reserve(importance.size() + 1);
    for (const auto & [name, values] : importance) {
        entries.push_back({name.c_str(), values.data(), values.size()});
    }
    entries.push_back({nullptr, nullptr, 0});  // the end of the list

    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype                       = static_cast<llama_ftype>(ftype);
    params.nthread                     = n_threads;
    params.allow_requantize            = allow_requantize;
    params.imatrix                     = importance.empty() ? nullptr : entries.data();

    std::string reason;
    uint32_t rc = 0;
    {
        // what llama.cpp has to say, and how far it is, it says in its log alone; an exception from there ends the work
        const LineScope scope([&](const LogLine & line) {
            int done  = 0;
            int total = 0;
            if (std::sscanf(line.second.c_str(), "[%d/%d]", &done, &total) == 2) {
                progress.done  = done;
                progress.total = total;
            }
            if (line.first >= 40 && line.second.find("failed to quantize: ") != std::string::npos) {
                reason = line.second.substr(line.second.find("failed to quantize: ") + 20);
            }
            if (progress.cancel && reason.empty()) {
                reason = "cancelled";
                throw std::runtime_error(reason);
            }
        });
        rc = llama_model_quantize(model.c_str(), out.c_str(), &params);
    }
    if (progress.cancel) {
        throw Error("quantizing was cancelled");
    }
    if (rc == 0) {
        return;
    }
    if (reason.find("imatrix") != std::string::npos || reason.find("importance matrix") != std::string::npos ||
        reason.find("requantizing") != std::string::npos || reason.find("file type") != std::string::npos) {
        throw RequestError(reason);
    }
    throw ModelFileError(model + ": cannot be quantized: " + (reason.empty() ? "see the log of llama.cpp" : reason));
}

}  // namespace darwin_neg
