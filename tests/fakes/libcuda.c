/* A driver that knows GPUS identical GPUs, for tests on machines without one. Compiled with -D for each capital word. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76 };

CUresult cuInit(unsigned flags) { return flags ? INVALID_VALUE : INIT; }
CUresult cuDriverGetVersion(int *version) { return *version = CUDA, SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = GPUS, SUCCESS; }

CUresult cuDeviceGet(int *device, int ordinal) {
    if (ordinal >= GPUS) return INVALID_VALUE;
    *device = ordinal;
    return SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, NAME, (size_t)length);
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == COMPUTE_CAPABILITY_MAJOR) *value = MAJOR;
    else if (attribute == COMPUTE_CAPABILITY_MINOR) *value = MINOR;
    else return INVALID_VALUE;
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)GIBIBYTES << 30;
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, int *found) {
    (void)version, (void)flags;
    const char *name = strcmp(symbol, "cuDeviceTotalMem") ? symbol : "cuDeviceTotalMem_v2";
    *function = dlsym(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD), name);
    if (found) *found = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
