/*
 * Programs that move data through the guest's devices. Each takes the rest of the command line, prints "start" and "stop"
 * around its work and then "NAME SECONDS BYTES", and returns the exit status. One sends interrupts; it says itself what
 * it prints.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

int traffic_disk(int argc, char **argv);
int traffic_stream(int argc, char **argv);
int traffic_serve(int argc, char **argv);
int traffic_interrupt(int argc, char **argv);

#endif
