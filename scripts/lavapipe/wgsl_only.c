/* A Vulkan driver that is Mesa's software driver without buffer addresses.
 *
 * With them, Burn's kernels reach the driver as SPIR-V of their own making, on which the software
 * driver crashes while it translates; without them they go through WGSL. A stand-in for a graphics
 * card in tests: loaded by the manifest that scripts/vulkan.sh writes, never by the program.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef void (*Function)(void);
typedef Function (*Lookup)(void *instance, const char *name);

/* The head of every structure in a chain of features, and the one flag that is cleared. */
struct Feature {
    int32_t type;
    struct Feature *next;
    uint32_t buffer_device_address;
};
enum { BUFFER_DEVICE_ADDRESS_FEATURES = 1000257000 };

static void (*driver_features)(void *device, struct Feature *chain);

static void *driver(const char *name) {
    static void *library;
    if (!library) library = dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_LOCAL);
    return library ? dlsym(library, name) : 0;
}

static void features(void *device, struct Feature *chain) {
    driver_features(device, chain);
    for (; chain; chain = chain->next)
        if (chain->type == BUFFER_DEVICE_ADDRESS_FEATURES) chain->buffer_device_address = 0;
}

static Function replaced(const char *name, Function found) {
    if (!found || strncmp(name, "vkGetPhysicalDeviceFeatures2", 28) != 0) return found;
    driver_features = (void (*)(void *, struct Feature *))found;
    return (Function)features;
}

Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    Lookup lookup = (Lookup)driver("vk_icdGetInstanceProcAddr");
    return lookup ? replaced(name, lookup(instance, name)) : 0;
}

Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    Lookup lookup = (Lookup)driver("vk_icdGetPhysicalDeviceProcAddr");
    return lookup ? replaced(name, lookup(instance, name)) : 0;
}

int32_t vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    int32_t (*negotiate)(uint32_t *) =
        (int32_t(*)(uint32_t *))driver("vk_icdNegotiateLoaderICDInterfaceVersion");
    return negotiate ? negotiate(version) : -9; /* VK_ERROR_INCOMPATIBLE_DRIVER */
}
