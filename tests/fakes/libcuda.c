/* A fake driver with GPUS identical GPUs, for tests on machines without a GPU. Compiled with -D for each capital word.
   CUDA is the supported version: 12040 is 12.4.
   Like the real driver it lists the GPUs of CUDA_VISIBLE_DEVICES, up to the first entry that names no GPU. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500 };
enum { COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76 };

static int visible[GPUS + 1], count;

/* GPUs are listed by their number or by any beginning of GPU-<number>-fake; where MIG is on, by MIG-<number>-fake alone. */
static int find(const char *entry) {
    char *end, name[32];
    long index = strtol(entry, &end, 10);
    if (end != entry && *end == 0) return MIG != 1 && index >= 0 && index < GPUS ? (int)index : -1;
    for (int gpu = 0; gpu < GPUS; gpu++) {
        snprintf(name, sizeof name, "%s-%d-fake", MIG == 1 ? "MIG" : "GPU", gpu);
        if (strlen(entry) > 3 && strncmp(name, entry, strlen(entry)) == 0) return gpu;
    }
    return -1;
}

CUresult cuInit(unsigned flags) {
    char list[256] = "", *rest = list, *entry;
    const char *set = getenv("CUDA_VISIBLE_DEVICES");
    if (flags || INIT) return flags ? INVALID_VALUE : INIT;
    for (count = 0; !set && count < GPUS; count++) visible[count] = count;
    if (set) strncpy(list, set, sizeof list - 1);
    while (set && count < GPUS && (entry = strsep(&rest, ",")) && find(entry) >= 0) visible[count++] = find(entry);
    return count ? SUCCESS : NO_DEVICE;
}

CUresult cuDriverGetVersion(int *version) { return *version = CUDA, SUCCESS; }
CUresult cuDeviceGetCount(int *found) { return *found = count, SUCCESS; }

CUresult cuDeviceGet(int *device, int ordinal) {
    if (ordinal >= count) return INVALID_VALUE;
    *device = visible[ordinal];
    return SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, NAME, (size_t)length);
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, (size_t)length, "0000:%02x:00.0", device);
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute == COMPUTE_CAPABILITY_MAJOR) *value = MAJOR;
    else if (attribute == COMPUTE_CAPABILITY_MINOR) *value = MINOR;
    else return INVALID_VALUE;
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)MEBIBYTES << 20;
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

/* A context is any address except for zero. */
static void *current;

CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &current;
    return device < GPUS ? SUCCESS : INVALID_VALUE;
}

CUresult cuDevicePrimaryCtxRelease_v2(int device) { return device < GPUS ? SUCCESS : INVALID_VALUE; }
CUresult cuCtxPushCurrent_v2(void *context) { return current = context, SUCCESS; }
CUresult cuCtxPopCurrent_v2(void **context) { return *context = current, current = NULL, SUCCESS; }

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)FREE << 20;
    *total = (size_t)MEBIBYTES << 20;
    return current ? SUCCESS : INVALID_VALUE;
}

CUresult cuCtxSetCurrent(void *context) { return current = context, SUCCESS; }

/* Device memory is the host's, and a stream does everything at once. */
CUresult cuMemAlloc_v2(void **address, size_t bytes) { return (*address = malloc(bytes)) ? SUCCESS : OUT_OF_MEMORY; }
CUresult cuMemFree_v2(void *address) { return free(address), SUCCESS; }
static CUresult copy(void *to, const void *from, size_t bytes) { return memcpy(to, from, bytes), SUCCESS; }
CUresult cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *on) { return (void)on, copy(to, from, bytes); }
CUresult cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *on) { return (void)on, copy(to, from, bytes); }
CUresult cuMemcpyDtoDAsync_v2(void *to, void *from, size_t bytes, void *on) { return (void)on, copy(to, from, bytes); }

static int stream, capturing;
CUresult cuStreamCreate(void **made, unsigned flags) { return (void)flags, *made = &stream, current ? SUCCESS : INVALID_VALUE; }
CUresult cuStreamSynchronize(void *on) { return on == &stream && !capturing ? SUCCESS : INVALID_VALUE; }
CUresult cuStreamDestroy_v2(void *on) { return on == &stream ? SUCCESS : INVALID_VALUE; }

/* What is captured has been done by then; a launch of the graph does nothing more. */
CUresult cuStreamBeginCapture_v2(void *on, int mode) { return (void)on, (void)mode, capturing = 1, SUCCESS; }
CUresult cuStreamEndCapture(void *on, void **graph) { return (void)on, *graph = &capturing, capturing = 0, SUCCESS; }
CUresult cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    return (void)flags, *made = graph, SUCCESS;
}
CUresult cuGraphLaunch(void *graph, void *on) { return (void)on, graph == &capturing ? SUCCESS : INVALID_VALUE; }
CUresult cuGraphDestroy(void *graph) { return (void)graph, SUCCESS; }
CUresult cuGraphExecDestroy(void *graph) { return (void)graph, SUCCESS; }

/* An event is the time at which it was recorded. */
CUresult cuEventCreate(void **event, unsigned flags) {
    return (void)flags, (*event = calloc(1, sizeof(struct timespec))) ? SUCCESS : OUT_OF_MEMORY;
}
CUresult cuEventRecord(void *event, void *on) { return (void)on, clock_gettime(CLOCK_MONOTONIC, event), SUCCESS; }
CUresult cuEventSynchronize(void *event) { return (void)event, SUCCESS; }
CUresult cuEventDestroy_v2(void *event) { return free(event), SUCCESS; }
CUresult cuEventElapsedTime_v2(float *milliseconds, struct timespec *from, struct timespec *to) {
    *milliseconds = (float)((to->tv_sec - from->tv_sec) * 1e3 + (to->tv_nsec - from->tv_nsec) * 1e-6);
    return SUCCESS;
}

/* Drivers before CUDA 12.0 have only the first version of this function, which has no last parameter. */
static CUresult look_up(const char *symbol, void **function) {
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    char name[128];
    snprintf(name, sizeof name, "%s_v2", symbol);
    *function = dlsym(library, name);
    if (!*function) *function = dlsym(library, symbol);
    return *function ? SUCCESS : NOT_FOUND;
}

#if CUDA < 12000
CUresult cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags) {
    (void)version, (void)flags;
    return look_up(symbol, function);
}
#else
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, int *found) {
    (void)version, (void)flags;
    CUresult status = look_up(symbol, function);
    if (found) *found = *function ? 0 : 1;
    return status;
}
#endif
