// What Python calls to choose tokens, by ctypes.
#include "sampling.h"

#define API extern "C" __attribute__((visibility("default")))

using namespace octavo;

API Sampler* octavo_sampler_new() { return new Sampler; }
API void octavo_sampler_free(Sampler* sampler) { delete sampler; }

API void octavo_sample(Pool* pool, Sampler* sampler, const Sampling* sampling) { sampler->sample(*pool, *sampling); }
API void octavo_score(Pool* pool, Sampler* sampler, const Scoring* scoring) { sampler->score(*pool, *scoring); }
