/*
 * What it takes to send a message-signalled interrupt to a guest on KVM: by KVM_SIGNAL_MSI, and by writing to an
 * eventfd that KVM listens to (KVM_IRQFD; Documentation/virt/kvm/api.rst). Each is one system call. The guest is one of
 * a few instructions; its local APIC is the kernel's, as with xhyve's irqchip=split. "call": the system call alone,
 * while the vCPU does not run. "handler": until the guest, which has halted, has told from its handler, by a port, that
 * the interrupt has come; so the way back is in it, too.
 *
 * The two take turns. Prints "interrupt call|handler irqfd|ioctl SECONDS COUNT", each on a line.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "traffic.h"

enum { CODE = 0x1000, HANDLER = 0x1040, IDT = 0x2000, GDT = 0x3000, STACK = 0x5000, MEMORY = 0x5000 };
enum { VECTOR = 0x40, GSI = 24, PINS = 24, PORT_CAME = 0x10, PORT_READY = 0x11 };
enum { IRQFD, IOCTL, WAYS };
enum { TURNS = 10, MOST = 10000000, PATIENCE_MS = 5000 };

static const uint8_t code[] = {
    0xc7, 0x05,       0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00, /* movl $0x1ff, 0xfee000f0: local APIC on */
    0xe6, PORT_READY,                                                 /* out %al, $PORT_READY */
    0xfb,                                                             /* sti */
    0xf4,                                                             /* 1: hlt */
    0xeb, 0xfd,                                                       /* jmp 1b */
};
static const uint8_t handler[] = {
    0xc7, 0x05,      0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x00, /* movl $0, 0xfee000b0: EOI */
    0xe6, PORT_CAME,                                                 /* out %al, $PORT_CAME */
    0xcf,                                                            /* iret */
};

struct machine {
    int vm, vcpu;
    struct kvm_run *run;
    int event, told; /* eventfds: interrupts, and what the handler says */
};

static void fail(const char *what)
{
    char text[128];

    snprintf(text, sizeof(text), "interrupt: %s: %m", what);
    bench_fail(text);
}

/* Flat 32-bit code, no paging. */
static void set_registers(const struct machine *m)
{
    struct kvm_regs regs = {.rip = CODE, .rsp = STACK, .rflags = 2};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_sregs s;

    if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
        fail("KVM_GET_SREGS");
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cs = data;
    s.cs.selector = 8;
    s.cs.type = 11;
    s.gdt.base = GDT;
    s.gdt.limit = 23;
    s.idt.base = IDT;
    s.idt.limit = 8 * (VECTOR + 1) - 1;
    s.cr0 |= 1;
    if (ioctl(m->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(m->vcpu, KVM_SET_REGS, &regs) < 0)
        fail("registers");
}

static void fill(uint8_t *memory)
{
    const uint64_t gate = (uint64_t)HANDLER | UINT64_C(8) << 16 | UINT64_C(0x8e00) << 32;
    const uint64_t gdt[] = {0, UINT64_C(0x00cf9b000000ffff), UINT64_C(0x00cf93000000ffff)};

    memcpy(memory + CODE, code, sizeof(code));
    memcpy(memory + HANDLER, handler, sizeof(handler));
    memcpy(memory + IDT + 8 * VECTOR, &gate, sizeof(gate));
    memcpy(memory + GDT, gdt, sizeof(gdt));
}

static void open_machine(struct machine *m)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {PINS}};
    struct kvm_userspace_memory_region ram = {.memory_size = MEMORY, .userspace_addr = (uintptr_t)memory};
    struct kvm_irqfd irqfd = {.gsi = GSI};
    struct kvm_irq_routing *routes = calloc(1, sizeof(*routes) + sizeof(routes->entries[0]));

    if (!routes)
        fail("memory");
    routes->nr = 1;
    routes->entries[0] = (struct kvm_irq_routing_entry){.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI};
    routes->entries[0].u.msi.address_lo = 0xfee00000;
    routes->entries[0].u.msi.data = VECTOR;
    if (kvm < 0)
        fail("/dev/kvm");
    if (memory == MAP_FAILED)
        fail("mmap");
    fill(memory);
    m->vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (m->vm < 0)
        fail("KVM_CREATE_VM");
    if (ioctl(m->vm, KVM_ENABLE_CAP, &split) < 0)
        fail("KVM_CAP_SPLIT_IRQCHIP");
    if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &ram) < 0)
        fail("KVM_SET_USER_MEMORY_REGION");
    m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
    if (m->vcpu < 0)
        fail("KVM_CREATE_VCPU");
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    if (size < 0 || m->run == MAP_FAILED)
        fail("the vCPU's page");
    set_registers(m);
    m->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->told = eventfd(0, EFD_CLOEXEC);
    irqfd.fd = (uint32_t)m->event;
    if (m->event < 0 || m->told < 0)
        fail("eventfd");
    if (ioctl(m->vm, KVM_SET_GSI_ROUTING, routes) < 0 || ioctl(m->vm, KVM_IRQFD, &irqfd) < 0)
        fail("KVM_IRQFD");
    free(routes);
}

/* Until the guest writes to that port. */
static void run_until(const struct machine *m, unsigned port)
{
    while (ioctl(m->vcpu, KVM_RUN, 0) < 0)
        if (errno != EINTR && errno != EAGAIN)
            fail("KVM_RUN");
    if (m->run->exit_reason != KVM_EXIT_IO || m->run->io.port != port) {
        errno = EIO;
        fail("the guest does not do what it should");
    }
}

static void *vcpu(void *arg)
{
    const struct machine *m = arg;
    const uint64_t one = 1;

    for (;;) {
        run_until(m, PORT_CAME);
        if (write(m->told, &one, sizeof(one)) != sizeof(one))
            fail("write");
    }
    return NULL;
}

static void send_one(const struct machine *m, int way)
{
    static const struct kvm_msi msi = {.address_lo = 0xfee00000, .data = VECTOR};
    static const uint64_t one = 1;

    if (way == IRQFD ? write(m->event, &one, sizeof(one)) != sizeof(one) : ioctl(m->vm, KVM_SIGNAL_MSI, &msi) < 0)
        fail(way == IRQFD ? "an eventfd's write" : "KVM_SIGNAL_MSI");
}

static void wait_for_handler(const struct machine *m)
{
    struct pollfd p = {.fd = m->told, .events = POLLIN};
    uint64_t n;

    if (poll(&p, 1, PATIENCE_MS) != 1) {
        errno = ETIMEDOUT;
        fail("an interrupt does not come");
    }
    if (read(m->told, &n, sizeof(n)) != sizeof(n))
        fail("read");
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void measure(const struct machine *m, const char *what, bool wait, unsigned count)
{
    double seconds[WAYS] = {0};

    for (unsigned turn = 0; turn < TURNS * WAYS; turn++) {
        int way = (int)(turn % WAYS);
        double begin = now();
        for (unsigned i = 0; i < count / TURNS; i++) {
            send_one(m, way);
            if (wait)
                wait_for_handler(m);
        }
        seconds[way] += now() - begin;
    }
    for (int way = 0; way < WAYS; way++)
        printf("interrupt %s %s %.6f %u\n", what, way == IRQFD ? "irqfd" : "ioctl", seconds[way],
               count / TURNS * TURNS);
}

/* argv: COUNT; a tenth of it for the rows of handlers */
int traffic_interrupt(int argc, char **argv)
{
    struct machine m;
    pthread_t thread;
    unsigned long count = argc == 1 ? strtoul(argv[0], NULL, 10) : 0;

    if (count < (unsigned long)TURNS * TURNS || count > MOST) {
        fprintf(stderr, "usage: programs interrupt COUNT; COUNT %d to %d\n", TURNS * TURNS, MOST);
        return 2;
    }
    open_machine(&m);
    run_until(&m, PORT_READY);
    measure(&m, "call", false, (unsigned)count);
    if (pthread_create(&thread, NULL, vcpu, &m))
        bench_fail("interrupt: no thread");
    wait_for_handler(&m); /* of all those one has come */
    measure(&m, "handler", true, (unsigned)count / TURNS);
    return 0;
}
