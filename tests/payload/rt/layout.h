/* What assembly and C both know. */
#ifndef PAYLOAD_LAYOUT_H
#define PAYLOAD_LAYOUT_H

#define CODE32 0x08
#define DATA 0x10
#define CODE64 0x18

#define TRAMPOLINE 0x8000 /* where other processors start */
#define MAX_CPUS 16       /* initial APIC ids 0 to 15 */

#endif
