/*
 * The VM: options, life, the map of guest-physical memory, the calls of later
 * systems. Changes of the map stop all vCPUs, as the framework's do.
 */
#include "hvsim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/code.h"
#include "os/clock.h"
#include "util/bytes.h"

struct hvsim hvsim = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static const char *options_text;
static bool options_known;

/* ---- options ---- */

static _Noreturn void bad_option(const char *text)
{
    fprintf(stderr, "HVSIM: do not understand '%s': see tests/hvsim/hvsim.h\n", text);
    exit(1);
}

static void set_option(struct hvsim_options *o, char *text)
{
    char *value = strchr(text, '=');
    if (!value)
        bad_option(text);
    *value++ = '\0';
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"lost", &o->lost},   {"faults", &o->faults}, {"busy", &o->busy},        {"denied", &o->denied},
                 {"novmx", &o->novmx}, {"log", &o->log},       {"advanced", &o->advanced}};
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (strcmp(text, flags[i].name) == 0) {
            *flags[i].flag = strcmp(value, "on") == 0;
            return;
        }
    if (strcmp(text, "cpu") == 0 && hvsim_find_model(value))
        o->model = hvsim_find_model(value);
    else if (strcmp(text, "macos") == 0 && strcmp(value, "10.15") == 0)
        o->macos = MACOS_10_15;
    else if (strcmp(text, "macos") == 0 && strcmp(value, "11") == 0)
        o->macos = MACOS_11;
    else if (strcmp(text, "macos") == 0 && strcmp(value, "12") == 0)
        o->macos = MACOS_12;
    else if (strcmp(text, "jit") == 0)
        o->nojit = strcmp(value, "off") == 0;
    else if (strcmp(text, "apic") == 0)
        o->noapic = strcmp(value, "off") == 0;
    else if (strcmp(text, "hlt") == 0)
        o->hlt_exits = strcmp(value, "exit") == 0;
    else if (strcmp(text, "x2apic") == 0)
        o->x2apic = strcmp(value, "exit") == 0 ? X2APIC_EXIT : strcmp(value, "none") == 0 ? X2APIC_NONE : X2APIC_KERNEL;
    else if (strcmp(text, "spurious") == 0)
        o->spurious = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(text, "late") == 0)
        o->late = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(text, "vcpus") == 0)
        o->vcpus = (unsigned)strtoul(value, NULL, 10);
    else
        bad_option(text);
}

const struct hvsim_options *hvsim_options(void)
{
    if (options_known)
        return &hvsim.options;
    const char *text = options_text ? options_text : getenv("HVSIM");
    hvsim.options = (struct hvsim_options){.model = hvsim_models, .macos = MACOS_12, .vcpus = VM_MAX_VCPUS};
    char *copy = text ? strdup(text) : NULL, *rest = copy, *part;
    while (rest && (part = strsep(&rest, ",")))
        if (*part)
            set_option(&hvsim.options, part);
    free(copy);
    options_known = true;
    return &hvsim.options;
}

void hvsim_setenv(const char *text)
{
    options_text = text;
    options_known = false;
    hvsim_options();
}

/*
 * xhyve asks for calls that macOS 10.15 has not by their names. The linker sends those questions here (--wrap=dlsym).
 */
void *__real_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name)
{
    static const struct {
        const char *name;
        enum hvsim_macos since;
        void (*call)(void);
    } calls[] = {
        {"hv_vcpu_set_tsc_relative", MACOS_11, (void (*)(void))hv_vcpu_set_tsc_relative},
        {"hv_tsc_clock", MACOS_11, (void (*)(void))hv_tsc_clock},
        {"hv_vcpu_enable_managed_msr", MACOS_11, (void (*)(void))hv_vcpu_enable_managed_msr},
        {"hv_vcpu_set_msr_access", MACOS_11, (void (*)(void))hv_vcpu_set_msr_access},
        {"hv_vmx_vcpu_get_cap_write_vmcs", MACOS_11, (void (*)(void))hv_vmx_vcpu_get_cap_write_vmcs},
        {"hv_vmx_get_msr_info", MACOS_11, (void (*)(void))hv_vmx_get_msr_info},
        {"hv_vcpu_vmx_status", MACOS_12, (void (*)(void))hv_vcpu_vmx_status},
        {"hv_vcpu_get_idle_time", MACOS_12, (void (*)(void))hv_vcpu_get_idle_time},
        {"hv_vm_set_apic_bus_freq", MACOS_12, (void (*)(void))hv_vm_set_apic_bus_freq},
        {"hv_vm_lapic_msi", MACOS_12, (void (*)(void))hv_vm_lapic_msi},
        {"hv_vm_send_ioapic_intr", MACOS_12, (void (*)(void))hv_vm_send_ioapic_intr},
        {"hv_vcpu_apic_ctrl", MACOS_12, (void (*)(void))hv_vcpu_apic_ctrl},
        {"hv_vcpu_apic_read", MACOS_12, (void (*)(void))hv_vcpu_apic_read},
        {"hv_vcpu_apic_write", MACOS_12, (void (*)(void))hv_vcpu_apic_write},
        {"hv_vcpu_apic_get_state", MACOS_12, (void (*)(void))hv_vcpu_apic_get_state},
        {"hv_vcpu_apic_put_state", MACOS_12, (void (*)(void))hv_vcpu_apic_put_state},
        {"hv_vcpu_exit_info", MACOS_12, (void (*)(void))hv_vcpu_exit_info},
        {"hv_vcpu_exit_init_ap", MACOS_12, (void (*)(void))hv_vcpu_exit_init_ap},
        {"hv_vcpu_exit_startup_ap", MACOS_12, (void (*)(void))hv_vcpu_exit_startup_ap},
        {"hv_vcpu_exit_ioapic_eoi", MACOS_12, (void (*)(void))hv_vcpu_exit_ioapic_eoi},
        {"hv_vcpu_exit_apic_access_read", MACOS_12, (void (*)(void))hv_vcpu_exit_apic_access_read},
        {"hv_vcpu_exit_inject_excp", MACOS_12, (void (*)(void))hv_vcpu_exit_inject_excp},
    };
    if (strncmp(name, "hv_", 3) != 0)
        return __real_dlsym(handle, name);
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        if (strcmp(name, calls[i].name) == 0 && hvsim_options()->macos >= calls[i].since) {
            void *symbol;
            memcpy(&symbol, &calls[i].call, sizeof symbol);
            return symbol;
        }
    return NULL;
}

/* ---- the VM ---- */

hv_return_t hv_capability(hv_capability_t capability, uint64_t *value)
{
    if (!value || capability > HV_CAP_ADDRSPACEMAX)
        return HV_BAD_ARGUMENT;
    *value = capability == HV_CAP_VCPUMAX ? hvsim_options()->vcpus : 1;
    return HV_SUCCESS;
}

static void build_cpuid(void)
{
    const struct cpuid_topology topology = {.cpus = 1, .sockets = 1, .cores = 1, .threads = 1};
    uint32_t words[CPUID_WORDS];
    char why[256];
    hvsim_cpuid_words(hvsim_options()->model, words);
    if (cpuid_build(&hvsim.cpuid, "max", words, &topology, SOFT_TSC_HZ, 1000000000, why, sizeof why)) {
        fprintf(stderr, "hvsim: %s\n", why);
        exit(1);
    }
    hvsim.cpuid.phys_bits = HVSIM_SPACE_BITS;
}

hv_return_t hv_vm_create(hv_vm_options_t flags)
{
    const struct hvsim_options *o = hvsim_options();
    if (o->novmx)
        return HV_UNSUPPORTED;
    if (o->denied)
        return o->macos >= MACOS_11 ? HV_DENIED : HV_ERROR;
    if (o->busy)
        return HV_BUSY;
    if (flags & ~(hv_vm_options_t)(HV_VM_SPECIFY_MITIGATIONS | HV_VM_ACCEL_APIC | 0x5e))
        return HV_BAD_ARGUMENT;
    if ((flags & HV_VM_ACCEL_APIC) && (o->macos < MACOS_12 || o->noapic))
        return o->noapic ? HV_UNSUPPORTED : HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (hvsim.created) {
        r = HV_BUSY;
    } else {
        memset(&hvsim.vm, 0, sizeof hvsim.vm);
        build_cpuid();
        hvsim.vm.cpuid = &hvsim.cpuid;
        hvsim.vm.accel_options = o->nojit ? "jit=off" : NULL;
        hvsim.space = (struct guest_mem){.nregions = 1, .region = {{.len = UINT64_C(1) << HVSIM_SPACE_BITS}}};
        if (code_map_new(&hvsim.code, &hvsim.space))
            r = HV_NO_RESOURCES;
        hvsim.flags = flags;
        if (flags & HV_VM_ACCEL_APIC)
            hvsim_apic_open();
        hvsim.created = r == HV_SUCCESS;
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

hv_return_t hv_vm_destroy(void)
{
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created) {
        r = HV_NO_DEVICE;
    } else if (hvsim.nvcpus) {
        r = HV_BUSY;
    } else {
        code_map_free(hvsim.code);
        hvsim.code = NULL;
        for (unsigned i = 0; i < MEM_MAX_REGIONS; i++) {
            free(hvsim.perm[i]);
            hvsim.perm[i] = NULL;
        }
        hvsim.created = false;
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

/* ---- stopping the vCPUs ---- */

void hvsim_enter_world(struct hvsim_vcpu *v)
{
    pthread_mutex_lock(&hvsim.lock);
    while (hvsim.stopping)
        pthread_cond_wait(&hvsim.changed, &hvsim.lock);
    atomic_fetch_and(&v->wants, ~(uint32_t)WANT_WORLD);
    atomic_store(&v->running, 1);
    pthread_mutex_unlock(&hvsim.lock);
}

void hvsim_leave_world(struct hvsim_vcpu *v)
{
    pthread_mutex_lock(&hvsim.lock);
    atomic_store(&v->running, 0);
    pthread_cond_broadcast(&hvsim.changed);
    pthread_mutex_unlock(&hvsim.lock);
}

/* With the lock held; returns with it. No vCPU runs then. */
static void stop_world(void)
{
    hvsim.stopping++;
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++) {
        struct hvsim_vcpu *v = hvsim.vcpu[i];
        while (v && atomic_load(&v->running)) {
            hvsim_raise(v, WANT_WORLD);
            pthread_cond_wait(&hvsim.changed, &hvsim.lock);
        }
    }
}

static void start_world(bool code)
{
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
        if (hvsim.vcpu[i]) {
            hvsim.vcpu[i]->flush_tlb = true;
            hvsim.vcpu[i]->flush_code |= code;
        }
    hvsim.stopping--;
    pthread_cond_broadcast(&hvsim.changed);
}

/* ---- memory ---- */

#define PAGE 4095
#define TOUCHED 0x80 /* in hvsim.perm */

static bool bad_range(hv_gpaddr_t gpa, size_t size)
{
    return !size || (gpa & PAGE) || (size & PAGE) || gpa + size < gpa || (gpa + size) >> HVSIM_SPACE_BITS;
}

/* All of it is mapped? */
static bool mapped(hv_gpaddr_t gpa, size_t size)
{
    for (uint64_t at = gpa; at < gpa + size;) {
        const struct mem_region *r = mem_find(&hvsim.vm.mem, at);
        if (!r)
            return false;
        at = r->gpa + r->len;
    }
    return true;
}

static bool overlaps(hv_gpaddr_t gpa, size_t size)
{
    for (unsigned i = 0; i < hvsim.vm.mem.nregions; i++) {
        const struct mem_region *r = &hvsim.vm.mem.region[i];
        if (gpa < r->gpa + r->len && r->gpa < gpa + size)
            return true;
    }
    return false;
}

hv_return_t hv_vm_map(hv_uvaddr_t uva, hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags)
{
    if (!uva || ((uintptr_t)uva & PAGE) || bad_range(gpa, size) || (flags & ~(hv_memory_flags_t)7))
        return HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    struct guest_mem *mem = &hvsim.vm.mem;
    if (!hvsim.created) {
        r = HV_NO_DEVICE;
    } else if (overlaps(gpa, size)) {
        r = HV_ERROR;
    } else {
        stop_world();
        uint8_t *perm = mem->nregions < MEM_MAX_REGIONS ? malloc(size >> 12) : NULL;
        if (perm) {
            memset(perm, (int)flags, size >> 12);
            hvsim.perm[mem->nregions] = perm;
            mem->region[mem->nregions++] = (struct mem_region){
                .gpa = gpa, .len = size, .host = (uint8_t *)(uintptr_t)uva};
        } else {
            r = HV_NO_RESOURCES;
        }
        start_world(true);
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

/* Cuts [gpa, end) out of region i, which may become two. */
static bool cut(unsigned i, uint64_t gpa, uint64_t end)
{
    struct guest_mem *mem = &hvsim.vm.mem;
    struct mem_region r = mem->region[i];
    uint64_t last = r.gpa + r.len;
    if (gpa > r.gpa && end < last) {
        if (mem->nregions == MEM_MAX_REGIONS)
            return false;
        uint64_t len = last - end;
        uint8_t *perm = malloc(len >> 12);
        if (!perm)
            return false;
        memcpy(perm, hvsim.perm[i] + ((end - r.gpa) >> 12), len >> 12);
        hvsim.perm[mem->nregions] = perm;
        mem->region[mem->nregions++] = (struct mem_region){.gpa = end, .len = len, .host = r.host + (end - r.gpa)};
        mem->region[i].len = gpa - r.gpa;
    } else if (gpa > r.gpa) {
        mem->region[i].len = gpa - r.gpa;
    } else if (end < last) {
        memmove(hvsim.perm[i], hvsim.perm[i] + ((end - r.gpa) >> 12), (last - end) >> 12);
        mem->region[i] = (struct mem_region){.gpa = end, .len = last - end, .host = r.host + (end - r.gpa)};
    } else {
        free(hvsim.perm[i]);
        unsigned n = --mem->nregions;
        mem->region[i] = mem->region[n];
        hvsim.perm[i] = hvsim.perm[n];
        mem->region[n] = (struct mem_region){0}; /* CPUs remember where a region stands */
        hvsim.perm[n] = NULL;
    }
    return true;
}

hv_return_t hv_vm_unmap(hv_gpaddr_t gpa, size_t size)
{
    if (bad_range(gpa, size))
        return HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created) {
        r = HV_NO_DEVICE;
    } else if (!mapped(gpa, size)) {
        r = HV_ERROR;
    } else {
        stop_world();
        for (unsigned i = 0; i < hvsim.vm.mem.nregions && r == HV_SUCCESS;) {
            const struct mem_region *m = &hvsim.vm.mem.region[i];
            uint64_t from = gpa > m->gpa ? gpa : m->gpa, end = m->gpa + m->len;
            end = gpa + size < end ? gpa + size : end;
            if (from >= end)
                i++;
            else if (!cut(i, from, end))
                r = HV_NO_RESOURCES;
        }
        start_world(true);
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

hv_return_t hv_vm_protect(hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags)
{
    if (bad_range(gpa, size) || (flags & ~(hv_memory_flags_t)7))
        return HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created) {
        r = HV_NO_DEVICE;
    } else if (!mapped(gpa, size)) {
        r = HV_ERROR;
    } else {
        stop_world();
        for (uint64_t at = gpa; at < gpa + size; at += 4096) {
            const struct mem_region *m = mem_find(&hvsim.vm.mem, at);
            hvsim.perm[m - hvsim.vm.mem.region][(at - m->gpa) >> 12] = (uint8_t)flags;
        }
        start_world(false);
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

uint8_t hvsim_perm(uint64_t gpa)
{
    const struct mem_region *m = mem_find(&hvsim.vm.mem, gpa);
    return m ? hvsim.perm[m - hvsim.vm.mem.region][(gpa - m->gpa) >> 12] & 7 : 0;
}

bool hvsim_first_touch(uint64_t gpa)
{
    const struct mem_region *m = mem_find(&hvsim.vm.mem, gpa);
    return hvsim.options.faults && m &&
           !(__atomic_fetch_or(&hvsim.perm[m - hvsim.vm.mem.region][(gpa - m->gpa) >> 12], TOUCHED, __ATOMIC_RELAXED) &
             TOUCHED);
}

void hvsim_written(uint64_t gpa, uint64_t len)
{
    if (hvsim.code)
        code_written(hvsim.code, NULL, gpa, len);
}

/* ---- time ---- */

uint64_t hv_tsc_clock(void) { return os_clock_ns(); }

hv_return_t hv_vm_sync_tsc(uint64_t tsc)
{
    pthread_mutex_lock(&hvsim.lock);
    hv_return_t r = hvsim.created ? HV_SUCCESS : HV_NO_DEVICE;
    uint64_t offset = tsc - os_clock_ns();
    for (unsigned i = 0; r == HV_SUCCESS && i < VM_MAX_VCPUS; i++)
        if (hvsim.vcpu[i])
            CTRL(hvsim.vcpu[i], VMCS_CTRL_TSC_OFFSET) = offset;
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}
