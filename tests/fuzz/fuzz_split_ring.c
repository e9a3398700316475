/* Fuzz target: split virtqueues. */
#include "ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return ring_run(0, data, size); }
