// Loading a model: what it keeps of the parameters, and what an error says.

#include "model.h"

#include "check.h"
#include "errors.h"
#include "tiny-model.h"

#include <cstdio>
#include <memory>
#include <string>

using namespace darwin_neg;

// The callable refers to what its caller has on the stack.
static void progress_is_forgotten_after_the_load(ModelParams params) {
    auto calls                 = std::make_shared<int>(0);
    std::weak_ptr<int> watched = calls;
    params.progress            = [calls](float) {
        ++*calls;
        return true;
    };
    calls.reset();
    const Model model(std::move(params));
    CHECK(watched.expired());
    CHECK(!model.params().progress);
}

static void progress_may_end_the_load(ModelParams params) {
    int calls       = 0;
    params.progress = [&calls](float) {
        ++calls;
        return false;
    };
    bool refused = false;
    try {
        const Model model(std::move(params));
    } catch (const ModelFileError &) {
        refused = true;
    }
    CHECK(refused && calls > 0);
}

int main() {
    const std::string path = "test-model.gguf";
    TinyModel tiny;
    tiny.write(path, false);
    ModelParams params;
    params.model_path = path;
    progress_is_forgotten_after_the_load(params);
    progress_may_end_the_load(params);
    std::remove(path.c_str());
    return check_result("model");
}
