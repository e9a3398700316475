/* Fuzz target: packed virtqueues. */
#include "ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return ring_run(UINT64_C(1) << VIRTIO_F_RING_PACKED, data, size);
}
