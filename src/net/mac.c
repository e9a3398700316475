/* MAC addresses of NICs: read, written, and made up so that they stay. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net/impl.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int net_mac_parse(const char *text, uint8_t mac[6], char *why, size_t n)
{
    const char *p = text;
    uint8_t m[6];
    char separator = '\0';

    for (unsigned i = 0; i < 6; i++) {
        int high = hex_digit(p[0]), low = high < 0 ? -1 : hex_digit(p[1]);
        if (low < 0)
            goto bad;
        m[i] = (uint8_t)(high << 4 | low);
        p += 2;
        if (i == 5)
            break;
        if (i == 0 && (*p == ':' || *p == '-'))
            separator = *p;
        if (!separator || *p++ != separator)
            goto bad;
    }
    if (*p)
        goto bad;
    if (m[0] & 1)
        return net_fail(why, n, -EINVAL,
                        "mac=%s: a multicast address; the second digit of a NIC's own is even, as in 52:54:00:12:34:56",
                        text);
    if (!(m[0] | m[1] | m[2] | m[3] | m[4] | m[5]))
        return net_fail(why, n, -EINVAL, "mac=%s: the address of all zeroes is nobody's", text);
    memcpy(mac, m, 6);
    return 0;
bad:
    return net_fail(why, n, -EINVAL, "mac=%s: expected six pairs of hexadecimal digits, as in 52:54:00:12:34:56", text);
}

/* FNV-1a of 64 bits, then the finalizer of MurmurHash3, so that every bit of the input reaches every bit that is used. */
static uint64_t hash(const void *id, size_t len, const uint8_t *more, size_t nmore)
{
    const uint8_t *p = id;
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < nmore; i++)
        h = (h ^ more[i]) * UINT64_C(0x100000001b3);
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

void net_mac_derive(const void *id, size_t len, unsigned slot, unsigned func, uint8_t mac[6])
{
    const uint8_t place[] = {(uint8_t)slot, (uint8_t)func};
    uint64_t h = hash(id, len, place, sizeof(place));

    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)(h >> (8 * i));
    mac[0] = (uint8_t)((mac[0] & ~3) | 2); /* unicast, locally administered */
}

void net_id_derive(const void *id, size_t len, unsigned slot, unsigned func, uint8_t uuid[16])
{
    for (uint8_t half = 0; half < 2; half++) {
        const uint8_t place[] = {(uint8_t)slot, (uint8_t)func, (uint8_t)(half + 1)};
        uint64_t h = hash(id, len, place, sizeof(place));
        for (unsigned i = 0; i < 8; i++)
            uuid[8 * half + i] = (uint8_t)(h >> (8 * i));
    }
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x80);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

const char *net_mac_text(const uint8_t mac[6], char text[NET_MAC_TEXT])
{
    snprintf(text, NET_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    return text;
}
