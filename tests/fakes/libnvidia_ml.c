/* The management library of the same fake driver: it lists every GPU and ignores CUDA_VISIBLE_DEVICES. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef const char *nvmlDevice_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static int open;
static const char bus_ids[] = "\0\1\2\3\4\5\6\7";

nvmlReturn_t nvmlInitWithFlags(unsigned flags) { return flags ? INVALID_ARGUMENT : NVML ? NVML : (open++, SUCCESS); }
nvmlReturn_t nvmlShutdown(void) { return open ? (open--, SUCCESS) : UNINITIALIZED; }
const char *nvmlErrorString(nvmlReturn_t result) { return result == NOT_SUPPORTED ? "Not Supported" : "Made-up Error"; }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    if (!*DRIVER) return NOT_SUPPORTED;
    snprintf(version, length, "%s", DRIVER);
    return open ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) { return *count = GPUS, open ? SUCCESS : UNINITIALIZED; }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    if (index >= GPUS) return NOT_FOUND;
    *device = bus_ids + index;
    return open ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device) {
    unsigned bus = GPUS;
    if (sscanf(id, "0000:%x:00.0", &bus) != 1 || bus >= GPUS) return NOT_FOUND;
    return nvmlDeviceGetHandleByIndex_v2(bus, device);
}

/* NVML names the card, CUDA the instance: "... MIG 3g.20gb" is cut off. */
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    snprintf(name, length, "%s", NAME);
    char *instance = strstr(name, " MIG ");
    if (instance) *instance = 0;
    return device >= bus_ids && open ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    if (MIG < 0) return NOT_SUPPORTED;
    *current = *pending = MIG;
    return device >= bus_ids && open ? SUCCESS : UNINITIALIZED;
}
