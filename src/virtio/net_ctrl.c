/*
 * virtio-net's control queue (section 5.1.6.5) and what it is for above all: which
 * frames the driver wants. A command is a class, a number and data; the answer is
 * one byte. Data of another length than the command has is refused.
 */
#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "virtio/net_priv.h"

#define TURN_MAX 64 /* commands before the loop sees to other things */

enum ack { ACK_OK, ACK_ERR };
enum class { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_MQ = 4, CLASS_OFFLOADS = 5 };
enum rx_command { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum mac_command { MAC_TABLE_SET, MAC_ADDR_SET };
enum vlan_command { VLAN_ADD, VLAN_DEL };

#define COMMAND_LEN 2
#define MAC_LEN 6
#define TYPE_VLAN 0x8100

/*
 * Promiscuous until the driver says otherwise: one that knows the commands says
 * it first of all, and others rely on it.
 */
static const struct state_field nic_fields[] = {
    STATE_FIELD(struct nic_state, mac, 1, 0),     STATE_FIELD(struct nic_state, offloads, 1, 0),
    STATE_FIELD(struct nic_state, pairs, 1, 1),   STATE_FIELD(struct nic_state, offloads_said, 1, 0),
    STATE_FIELD(struct nic_state, promisc, 1, 1), STATE_FIELD(struct nic_state, allmulti, 1, 0),
    STATE_FIELD(struct nic_state, alluni, 1, 0),  STATE_FIELD(struct nic_state, nomulti, 1, 0),
    STATE_FIELD(struct nic_state, nouni, 1, 0),   STATE_FIELD(struct nic_state, nobcast, 1, 0),
    STATE_FIELD(struct nic_state, nuni, 1, 0),    STATE_FIELD(struct nic_state, nmulti, 1, 0),
    STATE_ARRAY(struct nic_state, uni, 1, 0),     STATE_ARRAY(struct nic_state, multi, 1, 0),
    STATE_ARRAY(struct nic_state, vlan, 1, 0),
};
const struct state_desc nic_desc = STATE_DESC("virtio-net", 1, struct nic_state, nic_fields);

void nic_ctrl_reset(struct nic *n)
{
    uint64_t mac = n->s.mac;
    state_reset(&nic_desc, &n->s);
    n->s.mac = mac;
}

bool nic_state_good(const struct nic *n)
{
    const struct nic_state *s = &n->s;
    return s->pairs >= 1 && s->pairs <= n->pairs && s->nuni <= NIC_MACS + 1 && s->nmulti <= NIC_MACS + 1 &&
           s->mac >> 48 == 0;
}

/* -- the filter -- */

static bool in_table(const uint64_t *table, unsigned n, uint64_t mac)
{
    for (unsigned i = 0; i < n && n <= NIC_MACS; i++)
        if (table[i] == mac)
            return true;
    return n > NIC_MACS;
}

bool nic_wants(const struct nic *n, const uint8_t *head, size_t len)
{
    const struct nic_state *s = &n->s;
    const uint64_t broadcast = UINT64_C(0xffffffffffff);
    if (s->promisc || !nic_has(n, F_CTRL_RX) || len < 14)
        return true;
    if (nic_has(n, F_CTRL_VLAN) && len >= 16 && (head[12] << 8 | head[13]) == TYPE_VLAN) {
        unsigned id = (unsigned)(head[14] << 8 | head[15]) % NIC_VLANS;
        if (!(s->vlan[id / 64] >> id % 64 & 1))
            return false;
    }
    uint64_t to = get_le(head, MAC_LEN);
    if (to == broadcast)
        return !s->nobcast;
    if (head[0] & 1)
        return !s->nomulti && (s->allmulti || in_table(s->multi, s->nmulti, to));
    if (s->nouni)
        return false;
    return s->alluni || to == __atomic_load_n(&s->mac, __ATOMIC_RELAXED) || in_table(s->uni, s->nuni, to);
}

/* -- commands; `len` bytes of data stand behind the command -- */

static enum ack rx_mode(struct nic *n, const struct vq_chain *c, unsigned command, uint64_t len)
{
    bool *const modes[] = {
        [RX_PROMISC] = &n->s.promisc, [RX_ALLMULTI] = &n->s.allmulti, [RX_ALLUNI] = &n->s.alluni,
        [RX_NOMULTI] = &n->s.nomulti, [RX_NOUNI] = &n->s.nouni,       [RX_NOBCAST] = &n->s.nobcast,
    };
    uint8_t on;
    if (command >= ARRAY_LEN(modes) || !nic_has(n, command <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA) || len != 1)
        return ACK_ERR;
    vq_read(c, COMMAND_LEN, &on, 1);
    if (on > 1)
        return ACK_ERR;
    *modes[command] = on;
    return ACK_OK;
}

/* A count, and so many addresses, at *at; moves it behind them. `end` is where the data ends. */
static enum ack read_table(const struct vq_chain *c, uint64_t *at, uint64_t end, uint64_t *table, uint16_t *count)
{
    uint8_t bytes[MAC_LEN];
    if (end - *at < 4)
        return ACK_ERR;
    vq_read(c, *at, bytes, 4);
    *at += 4;
    uint32_t entries = get_le32(bytes);
    if (entries > (end - *at) / MAC_LEN)
        return ACK_ERR;
    *count = (uint16_t)(entries <= NIC_MACS ? entries : NIC_MACS + 1);
    for (unsigned i = 0; i < entries && entries <= NIC_MACS; i++) {
        vq_read(c, *at + MAC_LEN * (uint64_t)i, bytes, MAC_LEN);
        table[i] = get_le(bytes, MAC_LEN);
    }
    *at += MAC_LEN * (uint64_t)entries;
    return ACK_OK;
}

static enum ack mac_table(struct nic *n, const struct vq_chain *c)
{
    uint64_t at = COMMAND_LEN, uni[NIC_MACS] = {0}, multi[NIC_MACS] = {0};
    uint16_t nuni, nmulti;
    if (read_table(c, &at, c->rlen, uni, &nuni) || read_table(c, &at, c->rlen, multi, &nmulti) || at != c->rlen)
        return ACK_ERR;
    memcpy(n->s.uni, uni, sizeof(uni));
    memcpy(n->s.multi, multi, sizeof(multi));
    n->s.nuni = nuni;
    n->s.nmulti = nmulti;
    return ACK_OK;
}

static enum ack mac(struct nic *n, const struct vq_chain *c, unsigned command, uint64_t len)
{
    uint8_t bytes[MAC_LEN];
    if (command == MAC_TABLE_SET)
        return nic_has(n, F_CTRL_RX) ? mac_table(n, c) : ACK_ERR;
    if (command != MAC_ADDR_SET || !nic_has(n, F_CTRL_MAC_ADDR) || len != MAC_LEN)
        return ACK_ERR;
    vq_read(c, COMMAND_LEN, bytes, MAC_LEN);
    if (bytes[0] & 1)
        return ACK_ERR;
    pthread_mutex_lock(&n->dev.lock);
    memcpy(n->dev.config, bytes, MAC_LEN);
    __atomic_store_n(&n->s.mac, get_le(bytes, MAC_LEN), __ATOMIC_RELAXED);
    pthread_mutex_unlock(&n->dev.lock);
    return ACK_OK;
}

static enum ack vlan(struct nic *n, const struct vq_chain *c, unsigned command, uint64_t len)
{
    uint8_t bytes[2];
    if (command > VLAN_DEL || !nic_has(n, F_CTRL_VLAN) || len != sizeof(bytes))
        return ACK_ERR;
    vq_read(c, COMMAND_LEN, bytes, sizeof(bytes));
    unsigned id = get_le16(bytes);
    if (id >= NIC_VLANS)
        return ACK_ERR;
    if (command == VLAN_ADD)
        n->s.vlan[id / 64] |= UINT64_C(1) << id % 64;
    else
        n->s.vlan[id / 64] &= ~(UINT64_C(1) << id % 64);
    return ACK_OK;
}

static enum ack mq(struct nic *n, const struct vq_chain *c, unsigned command, uint64_t len)
{
    uint8_t bytes[2];
    if (command != 0 || !nic_has(n, F_MQ) || len != sizeof(bytes))
        return ACK_ERR;
    vq_read(c, COMMAND_LEN, bytes, sizeof(bytes));
    unsigned pairs = get_le16(bytes);
    if (!pairs || pairs > n->pairs || nic_set_pairs(n, pairs))
        return ACK_ERR;
    n->s.pairs = (uint16_t)pairs;
    return ACK_OK;
}

static enum ack offloads(struct nic *n, const struct vq_chain *c, unsigned command, uint64_t len)
{
    uint8_t bytes[8];
    if (command != 0 || !nic_has(n, F_CTRL_GUEST_OFFLOADS) || len != sizeof(bytes))
        return ACK_ERR;
    vq_read(c, COMMAND_LEN, bytes, sizeof(bytes));
    uint64_t bits = get_le64(bytes);
    if (bits & ~nic_guest_bits(n) || nic_set_offloads(n, bits))
        return ACK_ERR;
    n->s.offloads = bits;
    n->s.offloads_said = true;
    return ACK_OK;
}

static enum ack execute(struct nic *n, const struct vq_chain *c)
{
    uint8_t command[COMMAND_LEN];
    uint64_t len = c->rlen - COMMAND_LEN;
    vq_read(c, 0, command, sizeof(command));
    switch (command[0]) {
    case CLASS_RX: return rx_mode(n, c, command[1], len);
    case CLASS_MAC: return mac(n, c, command[1], len);
    case CLASS_VLAN: return vlan(n, c, command[1], len);
    case CLASS_MQ: return mq(n, c, command[1], len);
    case CLASS_OFFLOADS: return offloads(n, c, command[1], len);
    default: return ACK_ERR;
    }
}

void nic_ctrl_notify(struct nic *n, struct vq *q)
{
    struct vq_chain *c = &n->ctrl_chain;
    unsigned done = 0;
    vq_kicks_off(q);
    for (; done < TURN_MAX && vq_pop(q, c) > 0; done++) {
        if (c->rlen < COMMAND_LEN || !c->wlen) {
            virtio_broken(&n->dev, q->index, "a command has no class and number, or no room for the answer");
            return;
        }
        uint8_t ack = (uint8_t)execute(n, c);
        vq_write(c, 0, &ack, 1);
        vq_push(q, c, 1);
    }
    if (vq_kicks_on(q))
        virtio_kick(&n->dev, q->index);
    virtio_signal(&n->dev, q->index);
}
