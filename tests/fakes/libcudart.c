/* A fake CUDA runtime whose device memory is host memory: allocation, copies, and streams that run everything at once. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int cudaError_t;
static int stream;

cudaError_t cudaMalloc(void **pointer, size_t bytes) { return *pointer = malloc(bytes ? bytes : 1), *pointer ? 0 : 2; }
cudaError_t cudaFree(void *pointer) { return free(pointer), 0; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { return (void)kind, memcpy(to, from, bytes), 0; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *on) {
    return (void)on, cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaStreamCreate(void **made) { return *made = &stream, 0; }
cudaError_t cudaStreamDestroy(void *on) { return (void)on, 0; }
cudaError_t cudaStreamSynchronize(void *on) { return (void)on, 0; }
