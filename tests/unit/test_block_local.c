/* host_file_look() of Linux: which files' writes end in this kernel's page cache. Takes root, to mount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/raw.h"

static char top[] = "/tmp/xhyve-local-XXXXXX";

static const char *path(const char *name)
{
    static char text[256];
    snprintf(text, sizeof(text), "%s/%s", top, name);
    return text;
}

/* A tmpfs with an overlay of two of its folders, in a namespace of our own, so that nothing is left of them. */
static int set_up(void **state)
{
    char options[512];
    (void)state;
    if (!mkdtemp(top))
        return -1;
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", top, "tmpfs", 0, "size=1m"))
        return 0; /* the test finds out */
    static const char *const folders[] = {"lower", "upper", "work", "both"};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(mkdir(path(folders[i]), 0700), 0);
    snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", top, top, top);
    int fd = open(path("lower/image"), O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 65536), 0);
    close(fd);
    if (mount("overlay", path("both"), "overlay", 0, options))
        perror("overlay");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    umount(path("both"));
    umount(top);
    return rmdir(top);
}

static bool local(const char *name, bool write)
{
    struct host_file h;
    int fd = open(path(name), write ? O_RDWR : O_RDONLY);
    if (fd < 0)
        skip();
    assert_int_equal(host_file_look(fd, write, &h), 0);
    assert_int_equal(h.size, 65536);
    close(fd);
    return h.local;
}

static void test_tmpfs(void **state)
{
    (void)state;
    assert_true(local("lower/image", true));
    assert_true(local("lower/image", false));
}

/* What is written to has been copied up; what is only read may lie on any file system below. */
static void test_overlay(void **state)
{
    (void)state;
    assert_false(local("both/image", false));
    assert_true(local("both/image", true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tmpfs), cmocka_unit_test(test_overlay)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
