// The smallest use of /dev/kvm: a real-mode guest of one page adds two numbers, writes the sum to a port and halts.
// Prints "sum 7, then HLT" and ends with 0 if KVM works as Documentation/virt/kvm/api.rst says.

#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static const uint8_t CODE[] = {
    0xba, 0xf8, 0x03, // mov $0x3f8, %dx
    0x00, 0xd8,       // add %bl, %al
    0xee,             // out %al, (%dx)
    0xf4,             // hlt
};

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = 0x1000, .memory_size = 4096, .userspace_addr = (uintptr_t)page};

    if (vm < 0 || page == MAP_FAILED)
        err(1, "/dev/kvm");
    memcpy(page, CODE, sizeof(CODE));
    int vcpu = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0x1000, .rax = 3, .rbx = 4, .rflags = 2};

    if (vcpu < 0 || run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
        err(1, "vCPU");
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
        err(1, "registers");
    if (ioctl(vcpu, KVM_RUN, 0) < 0)
        err(1, "KVM_RUN");
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x3f8 || run->io.direction != KVM_EXIT_IO_OUT)
        errx(1, "exit %u, not the OUT", run->exit_reason);
    printf("sum %u, ", ((uint8_t *)run)[run->io.data_offset]);
    if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_HLT)
        errx(1, "exit %u, not HLT", run->exit_reason);
    puts("then HLT");
    return 0;
}
