/* argv -> configuration -> machine -> exit status. The only exit() is the end of main(). */
#include <stdio.h>

#include "config/config.h"
#include "machine/machine.h"
#include "util/log.h"

int main(int argc, char **argv)
{
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
        log_error("-M: expected a network device (-s N,virtio-net), and this version has none");
        status = 1;
        break;
    }
    config_free(&config);
    return status;
}
