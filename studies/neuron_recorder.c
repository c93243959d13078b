// Stands in the place of MediaTek's libneuron_adapter.so: it takes every model, and writes down what it was given.
//
// One line a model that was finished, into the file that NEURON_RECORDER names: "model OPERATIONS INPUTS OUTPUTS". What
// NEURON_BREAKS says, it does when a model is to be compiled: "refuse", "crash" or "hang". It compiles nothing: a
// compiled model is 16 zeros.
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { uint8_t major, minor, patch; } Version;
typedef struct { unsigned operations, inputs, outputs; } Model;

int Neuron_getVersion(Version* version) {
  const char* said = getenv("NEURON_VERSION");
  unsigned numbers[3] = {8, 0, 10};
  if (said) sscanf(said, "%u.%u.%u", &numbers[0], &numbers[1], &numbers[2]);
  *version = (Version){(uint8_t)numbers[0], (uint8_t)numbers[1], (uint8_t)numbers[2]};
  return 0;
}

int NeuronModel_create(void** model) { return (*model = calloc(1, sizeof(Model))) ? 0 : 1; }
void NeuronModel_free(void* model) { free(model); }
int NeuronModel_addOperand(void* model, const void* type) { return 0; }
int NeuronModel_setOperandValue(void* model, int32_t index, const void* value, size_t size) { return 0; }
int NeuronModel_setOperandSymmPerChannelQuantParams(void* model, int32_t index, const void* parameters) { return 0; }
int NeuronModel_setOperandPerChannelQuantParams(void* model, int32_t index, const void* parameters) { return 0; }
int NeuronModel_setName(void* model, const char* name) { return 0; }
int NeuronModel_relaxComputationFloat32toFloat16(void* model, bool allow) { return 0; }

int NeuronModel_addOperation(void* model, int32_t type, uint32_t taken, const uint32_t* inputs, uint32_t given,
                             const uint32_t* outputs) {
  ((Model*)model)->operations++;
  return 0;
}

int NeuronModel_identifyInputsAndOutputs(void* model, uint32_t taken, const uint32_t* inputs, uint32_t given,
                                         const uint32_t* outputs) {
  ((Model*)model)->inputs = taken;
  ((Model*)model)->outputs = given;
  return 0;
}

int NeuronModel_finish(void* model) {
  const Model* found = model;
  const char* path = getenv("NEURON_RECORDER");
  FILE* stream = path ? fopen(path, "a") : NULL;
  if (!stream) return 0;
  fprintf(stream, "model %u %u %u\n", found->operations, found->inputs, found->outputs);
  fclose(stream);
  return 0;
}

int NeuronModel_getExtensionOperandType(void* model, const char* name, uint16_t code, int32_t* type) {
  *type = 20000 + code;
  return 0;
}

int NeuronModel_getExtensionOperationType(void* model, const char* name, uint16_t code, int32_t* type) {
  *type = 30000 + code;
  return 0;
}

int NeuronModel_restoreFromCompiledNetwork(void** model, void** compilation, const void* data, size_t size) { return 1; }

int NeuronCompilation_create(void* model, void** compilation) { return (*compilation = malloc(1)) ? 0 : 1; }
int NeuronCompilation_createWithOptions(void* model, void** compilation, const char* options) {
  return NeuronCompilation_create(model, compilation);
}
void NeuronCompilation_free(void* compilation) { free(compilation); }

int NeuronCompilation_finish(void* compilation) {
  const char* how = getenv("NEURON_BREAKS");
  if (!how) return 0;
  if (!strcmp(how, "crash")) abort();
  if (!strcmp(how, "hang"))
    for (;;) pause();
  return 1;
}

int NeuronCompilation_getSupportedOperations(void* compilation, uint32_t count, bool* supported) {
  memset(supported, 1, count);
  return 0;
}

int NeuronCompilation_setOptimizationString(void* compilation, const char* options) { return 0; }
int NeuronCompilation_setPreference(void* compilation, int32_t preference) { return 0; }
int NeuronCompilation_setPriority(void* compilation, int priority) { return 0; }
int NeuronCompilation_setOptimizationHint(void* compilation, uint32_t hint) { return 0; }
int NeuronCompilation_setL1MemorySizeKb(void* compilation, uint32_t size) { return 0; }
int Neuron_getL1MemorySizeKb(uint32_t* size) { return *size = 0, 0; }
int NeuronCompilation_getCompiledNetworkSize(void* compilation, size_t* size) { return *size = 16, 0; }
int NeuronCompilation_storeCompiledNetwork(void* compilation, void* buffer, size_t size) {
  memset(buffer, 0, size);
  return 0;
}
