/* argv -> configuration -> machine -> exit status. The only exit() is the end of main(). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "machine/devices.h"
#include "machine/machine.h"
#include "util/log.h"

/*
 * A standard descriptor that is closed would be the number of the next file
 * that is opened, and the console or a message would go there.
 */
static int fill_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    if (fill_standard_descriptors())
        return 1;
    struct vm_config config;
    enum config_action action;
    char why[512];
    int status = 0;

    config_init(&config);
    if (config_parse(&config, argc, argv, &action, why, sizeof(why))) {
        log_error("%s", why);
        config_free(&config);
        return 1;
    }
    switch (action) {
    case CONFIG_RUN: status = machine_run(&config); break;
    case CONFIG_HELP: fputs(config_usage, stdout); break;
    case CONFIG_VERSION: machine_print_version(); break;
    case CONFIG_LIST_PCI: config_list_pci(); break;
    case CONFIG_LIST_LPC: config_list_lpc(); break;
    case CONFIG_MAC:
        status = devices_print_macs(&config, why, sizeof(why)) ? 1 : 0;
        if (status)
            log_error("%s", why);
        break;
    }
    config_free(&config);
    if (fflush(stdout) || ferror(stdout)) {
        log_error("standard output: %s", strerror(errno));
        status = status ? status : 1;
    }
    return status;
}
