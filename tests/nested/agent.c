// Process 1 of the nested rig's machine once its file systems are mounted: runs commands that the host asks for.
//
// Usage, by init.sh alone: agent ROOT. It takes ROOT as its root directory and talks over the virtio port named "rig",
// in frames both ways: type (32 bits), length of the payload (32 bits), payload; little endian.
//
//   from the host                               from the agent
//   R  cwd, count of variables, variables,      H  ready
//      arguments; each ends with a NUL          O  bytes of the command's standard output
//   K  kill the command                         E  bytes of its standard error
//   W  a folder that shall take writes, which   X  its status as wait() tells it; nothing of it is left
//      are forgotten with the machine           A  0 or the errno of W and L
//   L  where the shared folder for logs goes
//   P  nothing: an interrupt is all that is wanted
//
// One command runs at a time. When its first process has ended, everything else that it left running is killed: each
// command finds the machine as the one before it did. When the host goes away the machine switches itself off.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FRAME_MAX (4u << 20)

struct frame {
    uint32_t type, length;
};

struct agent {
    int port;
    int children;   // signalfd: something ended
    pid_t command;  // 0: none
    int pipe[2];    // of the command's output and errors; -1: none
    unsigned folds; // how many folders took W
};

// Says it on the console, which the host keeps, and switches off.
static _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    reboot(RB_POWER_OFF);
    _exit(1); // the kernel panics, and with it QEMU ends
}

static void write_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("agent: cannot write to the host: %s", strerror(errno));
        at += n;
        size -= (size_t)n;
    }
}

static void read_all(int fd, void *data, size_t size)
{
    char *at = data;

    while (size) {
        ssize_t n = read(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("agent: the host is gone");
        at += n;
        size -= (size_t)n;
    }
}

static void send_frame(struct agent *agent, char type, const void *data, uint32_t length)
{
    struct frame frame = {(uint8_t)type, length};

    write_all(agent->port, &frame, sizeof(frame));
    write_all(agent->port, data, length);
}

static int open_port(void)
{
    DIR *ports = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    char path[400], name[16];

    while (ports && (entry = readdir(ports))) {
        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t n = read(fd, name, sizeof(name));
        close(fd);
        if (n >= 3 && memcmp(name, "rig", 3) == 0) {
            snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
            return open(path, O_RDWR | O_CLOEXEC);
        }
    }
    errno = ENODEV;
    return -1;
}

// ---- folders ----

// A folder of the read-only root becomes one that takes writes, into memory.
static int fold(struct agent *agent, const char *path)
{
    char upper[64], work[64], options[200];
    int error = 0;

    snprintf(upper, sizeof(upper), "/run/rig/%u-upper", agent->folds);
    snprintf(work, sizeof(work), "/run/rig/%u-work", agent->folds);
    snprintf(options, sizeof(options), "lowerdir=.,upperdir=%s,workdir=%s", upper, work);
    agent->folds++;
    mkdir("/run/rig", 0755);
    // From within the folder, so that no name has to be quoted in the options.
    struct stat status;
    if (chdir(path) < 0 || stat(".", &status) < 0 || mkdir(upper, 0755) < 0 || mkdir(work, 0755) < 0 ||
        chmod(upper, status.st_mode & 07777) < 0 || mount("overlay", ".", "overlay", 0, options) < 0)
        error = errno;
    if (chdir("/") < 0)
        die("agent: chdir: %s", strerror(errno));
    return error;
}

static int share_logs(const char *path)
{
    return mount("logs", path, "9p", 0, "trans=virtio,version=9p2000.L,msize=131072,cache=none") < 0 ? errno : 0;
}

// ---- commands ----

static _Noreturn void run_child(const char *cwd, char **variables, char **argv, int out, int err)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(126);
    if (chdir(cwd) < 0) {
        dprintf(2, "rig: cannot enter %s: %s\n", cwd, strerror(errno));
        _exit(126);
    }
    environ = variables;
    execvp(argv[0], argv);
    dprintf(2, "rig: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

// Cuts the payload of R, which ends with a NUL (the caller sees to that), into strings.
static void start(struct agent *agent, char *payload, uint32_t length)
{
    char **strings = calloc(length + 2, sizeof(*strings));
    size_t count = 0;
    int out[2], err[2];

    if (!strings)
        die("agent: no memory");
    for (char *at = payload; at < payload + length; at += strlen(at) + 1)
        strings[count++] = at;
    size_t variables = count > 1 ? strtoul(strings[1], NULL, 10) : 0;
    if (agent->command || count < 3 || variables > count - 3)
        die("agent: a request that makes no sense");
    char **argv = calloc(count - 2 - variables + 1, sizeof(*argv));
    if (!argv)
        die("agent: no memory");
    memcpy(argv, strings + 2 + variables, (count - 2 - variables) * sizeof(*argv));
    strings[2 + variables] = NULL;
    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        die("agent: pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        die("agent: fork: %s", strerror(errno));
    if (pid == 0)
        run_child(strings[0], strings + 2, argv, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    agent->pipe[0] = out[0];
    agent->pipe[1] = err[0];
    agent->command = pid;
    free(argv);
    free(strings);
}

// Passes on what a pipe has; false at its end.
static bool forward(struct agent *agent, int which)
{
    char buffer[16384];
    ssize_t n = read(agent->pipe[which], buffer, sizeof(buffer));

    if (n > 0) {
        send_frame(agent, which ? 'E' : 'O', buffer, (uint32_t)n);
        return true;
    }
    if (n < 0 && errno == EINTR)
        return true;
    close(agent->pipe[which]);
    agent->pipe[which] = -1;
    return false;
}

static void reap(struct agent *agent)
{
    struct signalfd_siginfo info;
    pid_t pid;
    int status;
    ssize_t n = read(agent->children, &info, sizeof(info));

    (void)n; // the signal says no more than that it is worth looking
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != agent->command)
            continue;
        // Everyone but this process, which is number 1.
        kill(-1, SIGKILL);
        while (waitpid(-1, NULL, 0) > 0)
            ;
        for (int i = 0; i < 2; i++) {
            while (agent->pipe[i] >= 0 && forward(agent, i))
                ;
        }
        agent->command = 0;
        uint32_t value = (uint32_t)status;
        send_frame(agent, 'X', &value, sizeof(value));
        return;
    }
}

static void take_request(struct agent *agent)
{
    struct frame frame;

    read_all(agent->port, &frame, sizeof(frame));
    if (frame.length > FRAME_MAX)
        die("agent: a frame of %u bytes", frame.length);
    char *payload = calloc(1, frame.length + 1);
    if (!payload)
        die("agent: no memory");
    read_all(agent->port, payload, frame.length);
    if (frame.type == 'P') {
        // Coming here has done it.
    } else if (frame.type == 'R') {
        start(agent, payload, frame.length);
    } else if (frame.type == 'K') {
        if (agent->command)
            kill(-1, SIGKILL);
    } else if (frame.type == 'W' || frame.type == 'L') {
        uint32_t error = (uint32_t)(frame.type == 'W' ? fold(agent, payload) : share_logs(payload));
        send_frame(agent, 'A', &error, sizeof(error));
    } else {
        die("agent: unknown request %u", frame.type);
    }
    free(payload);
}

int main(int argc, char **argv)
{
    struct agent agent = {.pipe = {-1, -1}};
    sigset_t child;

    if (getpid() != 1 || argc != 2)
        die("agent: is for init.sh alone");
    if (chdir(argv[1]) < 0 || chroot(".") < 0)
        die("agent: cannot enter %s: %s", argv[1], strerror(errno));
    agent.port = open_port();
    if (agent.port < 0)
        die("agent: no port to the host: %s", strerror(errno));
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    agent.children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (agent.children < 0)
        die("agent: signalfd: %s", strerror(errno));
    send_frame(&agent, 'H', "", 0);

    for (;;) {
        struct pollfd wait[] = {
            {agent.port, POLLIN, 0},
            {agent.pipe[0], POLLIN, 0},
            {agent.pipe[1], POLLIN, 0},
            {agent.children, POLLIN, 0},
        };
        if (poll(wait, 4, -1) < 0) {
            if (errno == EINTR)
                continue;
            die("agent: poll: %s", strerror(errno));
        }
        if (wait[0].revents & POLLIN)
            take_request(&agent);
        else if (wait[0].revents)
            die("agent: the host is gone");
        for (int i = 0; i < 2; i++) {
            if (wait[1 + i].revents)
                forward(&agent, i);
        }
        if (wait[3].revents)
            reap(&agent);
    }
}
