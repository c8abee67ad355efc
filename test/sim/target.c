/* See LICENSE file for copyright and license details. */
/*
 * One logical unit: persistent reservations by SPC-4, and where two targets
 * that are in use do it their own way. What is said of LIO is in Linux'
 * drivers/target/target_core_pr.c and target_core_ua.c, and is compared with
 * a running one (sim -f); of SPDK in lib/scsi/scsi_pr.c and scsi_bdev.c.
 */
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "../../prhelper.h"
#include "sim.h"

enum {
	CONFLICT = RESERVATION_CONFLICT << 24, /* beside sense numbers */
	NOT_READY = 0x020000,                  /* SPDK: not registered */
	NOT_REACHED = 0x020800,                /* LIO: not registered */
	WRITE_EXCLUSIVE = 1,
	EXCLUSIVE = 3,
	REGISTRANTS_WE = 5,
	REGISTRANTS_EA = 6,
	ALL_WE = 7,
	ALL_EA = 8,
	SPDK_REFUSES = FLAG_APTPL | FLAG_ALL_TG_PT | FLAG_SPEC_I_PT,
	DESCRIPTOR_LEN = 48, /* of READ FULL STATUS: with a SAS TransportID */
};

const char *const kind_names[KINDS] = { "LIO", "SPDK", "STRICT" };

/* The fields of an OUT. */
struct out {
	int action, scope, type, flags;
	uint32_t len;
	uint64_t key, sa;
	const uint8_t *list;
};

static int
type_known(int type)
{
	return type == WRITE_EXCLUSIVE || type == EXCLUSIVE ||
	    (type >= REGISTRANTS_WE && type <= ALL_EA);
}

int
target_all(const struct target *t)
{
	return t->holder != NOBODY && (t->type == ALL_WE || t->type == ALL_EA);
}

static int
holds(const struct target *t, int me)
{
	return t->holder == me || (target_all(t) && t->nexus[me].key);
}

int
target_may(const struct target *t, int me, int writing)
{
	if (t->holder == NOBODY || holds(t, me))
		return 1;
	switch (t->type) {
	case WRITE_EXCLUSIVE: return !writing;
	case EXCLUSIVE: return 0;
	case REGISTRANTS_WE:
	case ALL_WE: return !writing || t->nexus[me].key;
	default: return t->nexus[me].key != 0;
	}
}

/* LIO keeps no two of a kind, and a reset comes first. */
void
target_attention(struct target *t, int me, uint16_t code)
{
	struct nexus *n = &t->nexus[me];
	int i, at = n->nua;

	for (i = 0; i < n->nua; i++)
		if (n->ua[i] == code)
			return;
	if (n->nua == UA_MAX)
		return;
	if (code >> 8 == 0x29 && n->nua && n->ua[0] >> 8 == 0x2a)
		at = 0;
	for (i = n->nua++; i > at; i--) {
		n->ua[i] = n->ua[i - 1];
		n->own[i] = n->own[i - 1];
	}
	n->ua[at] = code;
	n->own[at] = t->own;
}

/* For every registered nexus but one. */
static void
attention_others(struct target *t, int but, uint16_t code)
{
	int i;

	if (t->kind == SPDK)
		return;
	for (i = 0; i < t->nreg; i++)
		if (t->order[i] != but)
			target_attention(t, t->order[i], code);
}

static void
reserve(struct target *t, int me, int type)
{
	t->holder = me;
	t->type = (uint8_t)type;
	t->crkey = t->nexus[me].key;
	t->changes++;
}

static void
release(struct target *t)
{
	t->holder = NOBODY;
	t->type = 0;
	t->crkey = 0;
	t->changes++;
}

static void
add(struct target *t, int me, uint64_t key, int all_tg_pt)
{
	if (!t->nexus[me].key)
		t->order[t->nreg++] = (uint8_t)me;
	t->nexus[me].key = key;
	t->nexus[me].all_tg_pt = all_tg_pt != 0;
	if (t->holder == me)
		t->crkey = key;
	t->changes++;
}

/* Its reservation goes with it, or to the next one if all hold it. */
static void
drop(struct target *t, int me)
{
	int i;

	for (i = 0; t->order[i] != me; i++)
		;
	memmove(&t->order[i], &t->order[i + 1],
	    (size_t)(--t->nreg - i) * sizeof(t->order[0]));
	t->nexus[me].key = 0;
	t->nexus[me].all_tg_pt = 0;
	t->changes++;
	if (t->holder == me) {
		if (target_all(t) && t->nreg)
			reserve(t, t->order[0], t->type);
		else
			release(t);
	}
	if (t->kind == SPDK)
		t->generation++;
}

/* Remove who has a key (0: everybody); how many had it. */
static int
drop_key(struct target *t, uint64_t key, int but, int me)
{
	int i, nexus, found = 0;

	for (i = t->nreg - 1; i >= 0; i--) {
		nexus = t->order[i];
		if (key && t->nexus[nexus].key != key)
			continue;
		found++;
		if (nexus == but)
			continue;
		drop(t, nexus);
		if (t->kind != SPDK && nexus != me)
			target_attention(t, nexus, UA_REMOVED);
	}
	return found;
}

/* No TransportID is taken, but a list of none. */
static int
spec_i_pt_ok(const struct out *o)
{
	return o->len == PARAMS_LEN + 4 && get32(o->list + PARAMS_LEN) == 0;
}

static uint32_t
unregister(struct target *t, int me)
{
	int held = t->holder == me;
	int type = t->type;

	drop(t, me);
	if (t->kind == STRICT)
		t->generation++; /* LIO does not count it */
	if (held && (type == REGISTRANTS_WE || type == REGISTRANTS_EA))
		attention_others(t, me, UA_RELEASED);
	return 0;
}

static uint32_t
do_register(struct target *t, int me, const struct out *o)
{
	struct nexus *n = &t->nexus[me];
	int i, new = !n->key;

	if (t->kind == SPDK && (o->flags & SPDK_REFUSES))
		return INVALID_FIELD;
	if (o->action == REGISTER && o->key != n->key)
		return CONFLICT;
	if (new && !o->sa) {
		t->generation += t->kind == STRICT;
		return 0;
	}
	if ((o->flags & FLAG_SPEC_I_PT) && (!new || !spec_i_pt_ok(o)))
		return INVALID_PARAM;
	if (t->kind == LIO && n->all_tg_pt && !(o->flags & FLAG_ALL_TG_PT))
		return INVALID_FIELD;
	if (t->aptpl != (o->flags & FLAG_APTPL))
		t->changes++;
	t->aptpl = o->flags & FLAG_APTPL;
	if (!o->sa)
		return unregister(t, me);
	t->generation++;
	add(t, me, o->sa, new ? o->flags & FLAG_ALL_TG_PT : n->all_tg_pt);
	/* LIO means only the ports that an administrator has listed. */
	for (i = 0; t->kind == STRICT && i < t->n; i++)
		if ((o->flags & FLAG_ALL_TG_PT) && i != me &&
		    t->nexus[i].initiator == n->initiator)
			add(t, i, o->sa, 1);
	return 0;
}

/* What a nexus hears that is not registered. */
static uint32_t
stranger(const struct target *t)
{
	return t->kind == LIO ? NOT_REACHED :
	    t->kind == SPDK   ? NOT_READY :
				CONFLICT;
}

static uint32_t
do_reserve(struct target *t, int me, const struct out *o)
{
	uint64_t key = t->nexus[me].key;

	/* SPDK takes every type; 0 would be its end. */
	if (t->kind == LIO && !type_known(o->type))
		return INVALID_FIELD;
	if (t->kind == SPDK &&
	    (o->scope || !o->type || (o->flags & SPDK_REFUSES)))
		return INVALID_FIELD;
	if (!key)
		return t->kind == LIO ? NOT_REACHED : CONFLICT;
	if (key != o->key)
		return CONFLICT;
	if (t->kind == STRICT && !type_known(o->type))
		return INVALID_FIELD;
	if (o->scope)
		return t->kind == LIO ? INVALID_PARAM : INVALID_FIELD;
	if (t->holder != NOBODY)
		return holds(t, me) && t->type == o->type ? 0 : CONFLICT;
	reserve(t, me, o->type);
	return 0;
}

/* SPDK: if all hold it and there are others, it only goes to the next one. */
static void
spdk_release(struct target *t, int me)
{
	int i;

	for (i = 0; target_all(t) && i < t->nreg; i++) {
		if (t->order[i] == me)
			continue;
		reserve(t, t->order[i], t->type);
		return;
	}
	release(t);
}

static uint32_t
do_release(struct target *t, int me, const struct out *o)
{
	uint64_t key = t->nexus[me].key;
	int type = t->type;

	if (t->kind == SPDK && o->scope)
		return INVALID_FIELD;
	if (!key)
		return stranger(t);
	if (t->kind == STRICT && key != o->key)
		return CONFLICT;
	if (t->holder == NOBODY)
		return 0;
	if (t->kind == SPDK && (type != o->type || o->key != t->crkey))
		return INVALID_FIELD;
	if (!holds(t, me))
		return 0;
	if (t->kind == LIO && key != o->key)
		return CONFLICT;
	if (type != o->type || o->scope)
		return t->kind == LIO ? CONFLICT : INVALID_RELEASE;
	if (t->kind == SPDK) {
		spdk_release(t, me);
		return 0;
	}
	release(t);
	if (type >= REGISTRANTS_WE)
		attention_others(t, me, UA_RELEASED);
	return 0;
}

static uint32_t
do_clear(struct target *t, int me, const struct out *o)
{
	if (!t->nexus[me].key)
		return stranger(t);
	if (t->nexus[me].key != o->key)
		return CONFLICT;
	attention_others(t, me, UA_PREEMPTED);
	while (t->nreg)
		drop(t, t->order[t->nreg - 1]);
	if (t->kind != SPDK) {
		t->generation++;
		t->aptpl = 0;
	}
	return 0;
}

/* Who is named does not hold the reservation, or there is none. */
static uint32_t
preempt_bystanders(struct target *t, int me, const struct out *o)
{
	int all = target_all(t);

	/* LIO takes the caller too, but not if all hold it. */
	if (!drop_key(t, o->sa, t->kind == STRICT || all ? me : NOBODY, me) &&
	    o->sa)
		return CONFLICT;
	if (all && !o->sa)
		reserve(t, me, o->type);
	t->generation++;
	return 0;
}

static uint32_t
do_preempt(struct target *t, int me, const struct out *o)
{
	int type = t->type, named;

	if (t->kind == LIO && !type_known(o->type))
		return INVALID_FIELD;
	if (!t->nexus[me].key || t->nexus[me].key != o->key)
		return CONFLICT;
	if (t->kind == STRICT && !type_known(o->type))
		return INVALID_FIELD;
	if (o->scope)
		return t->kind == LIO ? INVALID_PARAM : INVALID_FIELD;
	if (!target_all(t) && !o->sa)
		return INVALID_PARAM;
	/* LIO: under all registrants the nominal holder counts. */
	named = t->holder != NOBODY && t->nexus[t->holder].key == o->sa &&
	    (t->kind == LIO || !target_all(t));
	if (!named)
		return preempt_bystanders(t, me, o);
	t->type = 0; /* so that it goes to nobody else */
	drop_key(t, o->sa, me, me);
	reserve(t, me, o->type);
	if (type != o->type)
		attention_others(t, me, UA_RELEASED);
	t->generation++;
	return 0;
}

/*
 * Whatever key is named, the caller's own may be gone afterwards; the answer
 * is a conflict then if it was the holder's, although it was done.
 */
static uint32_t
spdk_preempt(struct target *t, int me, const struct out *o)
{
	int all = target_all(t);

	if (o->scope)
		return INVALID_FIELD;
	if (!t->nexus[me].key || t->nexus[me].key != o->key)
		return CONFLICT;
	if (t->holder != NOBODY && !all && !o->sa)
		return INVALID_FIELD;
	if (all && !o->sa) {
		drop_key(t, 0, me, me);
		reserve(t, me, o->type);
		t->crkey = 0;
	} else if (t->holder == NOBODY || all || o->sa != t->crkey) {
		if (o->sa)
			drop_key(t, o->sa, NOBODY, me);
	} else if (t->holder == me) {
		reserve(t, me, o->type);
	} else {
		drop_key(t, o->sa, NOBODY, me);
		if (!t->nexus[me].key)
			return CONFLICT;
		reserve(t, me, o->type);
	}
	t->generation++;
	return 0;
}

/* REGISTER AND MOVE to the nexus with that relative target port. */
static uint32_t
do_move(struct target *t, int me, const struct out *o)
{
	int to;

	if (!t->nexus[me].key)
		return stranger(t);
	if (t->nexus[me].key != o->key)
		return CONFLICT;
	to = (o->list[18] << 8 | o->list[19]) - 1;
	if (!o->sa || to < 0 || to >= t->n || to == me)
		return INVALID_PARAM;
	if (t->holder != me || target_all(t))
		return t->holder == NOBODY && t->kind == LIO ? INVALID_FIELD :
							       CONFLICT;
	add(t, to, o->sa, 0);
	reserve(t, to, t->type);
	if (o->list[17] & 2)
		drop(t, me);
	t->aptpl = o->list[17] & FLAG_APTPL;
	t->generation++;
	return 0;
}

/* Which OUT may come from who does not hold the reservation? SPC-4 table 68 */
static int
admitted(const struct target *t, int me, const struct out *o)
{
	int registered = t->nexus[me].key != 0;
	int we = t->type == WRITE_EXCLUSIVE || t->type == REGISTRANTS_WE ||
	    t->type == ALL_WE;

	if (t->kind == STRICT || t->holder == NOBODY || t->holder == me)
		return 1;
	if (t->kind == SPDK && holds(t, me))
		return 1;
	switch (o->action) {
	case REGISTER:
	case REGISTER_AND_IGNORE: return 1;
	case RELEASE:
	case CLEAR:
	case PREEMPT:
	case PREEMPT_AND_ABORT:
		if (registered)
			return 1;
		break;
	case RESERVE:
	case REGISTER_AND_MOVE: break;
	default: return 0;
	}
	if (t->kind == SPDK)
		return 0;
	/* LIO: then by the rules for any command, here one that writes. */
	if (we && !registered)
		return o->len == 0;
	return t->type >= REGISTRANTS_WE && registered;
}

static uint32_t
out(struct target *t, int me, const struct request *rq)
{
	struct out o = { .action = rq->cdb[1] & ACTION_MASK,
		.scope = rq->cdb[2] >> 4, .type = rq->cdb[2] & 0xf,
		.len = rq->len, .list = rq->data };
	int named; /* there are TransportIDs */

	if (!admitted(t, me, &o))
		return CONFLICT;
	if (t->kind == SPDK)
		o.action &= 0xf;
	if (o.len < PARAMS_LEN)
		return t->kind == SPDK ? INVALID_FIELD : PARAMS_LENGTH;
	o.key = get64(o.list);
	o.sa = get64(o.list + 8);
	o.flags = o.action == REGISTER_AND_MOVE ? 0 : o.list[20];
	named = o.flags & FLAG_SPEC_I_PT;
	if (t->kind != SPDK && named && o.action != REGISTER)
		return INVALID_PARAM;
	if (t->kind != SPDK && !named && o.action != REGISTER_AND_MOVE &&
	    o.len != PARAMS_LEN)
		return PARAMS_LENGTH;
	switch (o.action) {
	case REGISTER:
	case REGISTER_AND_IGNORE: return do_register(t, me, &o);
	case RESERVE: return do_reserve(t, me, &o);
	case RELEASE: return do_release(t, me, &o);
	case CLEAR: return do_clear(t, me, &o);
	case PREEMPT:
		return t->kind == SPDK ? spdk_preempt(t, me, &o) :
					 do_preempt(t, me, &o);
	case PREEMPT_AND_ABORT:
		return t->kind == SPDK ? INVALID_FIELD : do_preempt(t, me, &o);
	case REGISTER_AND_MOVE:
		return t->kind == SPDK ? INVALID_FIELD : do_move(t, me, &o);
	default: return INVALID_FIELD;
	}
}

static uint32_t
read_keys(const struct target *t, uint8_t *p, uint32_t len)
{
	uint32_t size = 8;
	int i, fit = 0;

	for (i = 0; i < t->nreg; i++) {
		/* LIO and SPDK have no half a key. */
		if (t->kind == STRICT || size + 8 <= len) {
			put64(p + size, t->nexus[t->order[i]].key);
			fit++;
		}
		size += 8;
	}
	if (t->kind == SPDK)
		size = 8 + 8 * (uint32_t)fit;
	put32(p + 4, size - 8);
	return size;
}

static uint32_t
read_reservation(const struct target *t, uint8_t *p, uint32_t len)
{
	if (t->holder == NOBODY)
		return 8;
	put32(p + 4, 16);
	if (t->kind == LIO && len < 22)
		return len;
	put64(p + 8, target_all(t) ? 0 :
		t->kind == SPDK	   ? t->crkey :
				     t->nexus[t->holder].key);
	p[21] = t->type;
	return 24;
}

static uint32_t
report_capabilities(const struct target *t, uint8_t *p)
{
	p[1] = 8;
	p[2] = t->kind == SPDK ? 0x10 : 0x1d;
	p[3] = t->kind == SPDK ? 0x80 : (uint8_t)(0x90 | t->aptpl);
	p[4] = 0xea;
	p[5] = 1;
	return 8;
}

static uint32_t
read_full_status(const struct target *t, uint8_t *p, uint32_t len)
{
	const struct nexus *n;
	uint32_t size = 8;
	uint8_t *d;
	int i, me;

	for (i = 0; i < t->nreg; i++) {
		/* LIO looks at the TransportID only, SPDK at all of it. */
		if ((t->kind == LIO && size - 8 + 24 > len) ||
		    (t->kind == SPDK && size + DESCRIPTOR_LEN > len))
			break;
		me = t->order[i];
		n = &t->nexus[me];
		d = p + size;
		put64(d, n->key);
		d[12] = (uint8_t)(n->all_tg_pt << 1 | holds(t, me));
		d[13] = holds(t, me) ? t->type : 0;
		d[19] = n->all_tg_pt ? 0 : (uint8_t)(me + 1);
		d[23] = 24;
		d[24] = 6; /* SAS */
		put64(d + 28, 0x5001405000000000 + n->initiator);
		size += DESCRIPTOR_LEN;
	}
	put32(p + 4, size - 8);
	return size;
}

static uint32_t
in(const struct target *t, const struct request *rq, struct reply *rp)
{
	uint8_t p[8 + NEXUS_MAX * DESCRIPTOR_LEN] = { 0 };
	int action = rq->cdb[1] & ACTION_MASK;
	uint32_t size, least = action == REPORT_CAPABILITIES ? 6 : 8;

	if (t->kind == SPDK)
		least = action == READ_RESERVATION ? 24 : 8;
	if (t->kind != STRICT && rq->len < least)
		return INVALID_FIELD;
	put32(p, t->generation);
	switch (action) {
	case READ_KEYS: size = read_keys(t, p, rq->len); break;
	case READ_RESERVATION: size = read_reservation(t, p, rq->len); break;
	case REPORT_CAPABILITIES:
		memset(p, 0, 4);
		size = report_capabilities(t, p);
		break;
	case READ_FULL_STATUS:
		if (!t->full_status)
			return INVALID_FIELD;
		size = read_full_status(t, p, rq->len);
		break;
	default: return INVALID_FIELD;
	}
	if (t->kind == SPDK && rq->len > size)
		memset(rq->data + size, 0, rq->len - size);
	rp->len = t->kind == SPDK || rq->len < size ? rq->len : size;
	memcpy(rq->data, p, rp->len < size ? rp->len : size);
	return 0;
}

/* One command clears all that wait at LIO, one elsewhere. */
static uint32_t
take_attention(struct target *t, int me)
{
	struct nexus *n = &t->nexus[me];
	uint32_t sense = 0x060000 | n->ua[0];

	n->nua = t->kind == LIO ? 0 : (uint8_t)(n->nua - 1);
	memmove(n->ua, n->ua + 1, n->nua * sizeof(n->ua[0]));
	memmove(n->own, n->own + 1, n->nua * sizeof(n->own[0]));
	return sense;
}

void
target_run(
    struct target *t, int me, const struct request *rq, struct reply *rp)
{
	uint32_t answer, len;

	proto_status(rp, GOOD);
	if (t->nexus[me].nua)
		answer = take_attention(t, me);
	else if (rq->cdb[0] == PR_IN)
		answer = in(t, rq, rp);
	else if (rq->cdb[0] == PR_OUT)
		answer = out(t, me, rq);
	else
		answer = rq->cdb[0] == TEST_UNIT_READY ? 0 : INVALID_OPCODE;
	len = rp->len;
	if (answer == CONFLICT)
		proto_status(rp, RESERVATION_CONFLICT);
	else if (answer)
		proto_sense(rp, answer);
	rp->len = answer ? 0 : len;
}

void
target_replace(struct target *t, int me)
{
	int i, ghost = t->n;

	if (t->nexus[me].key && t->n < NEXUS_MAX) {
		t->nexus[ghost] = t->nexus[me];
		t->n++;
		if (t->holder == me)
			t->holder = ghost;
		for (i = 0; i < t->nreg; i++)
			if (t->order[i] == me)
				t->order[i] = (uint8_t)ghost;
	} else if (t->nexus[me].key) {
		drop(t, me);
	}
	t->nexus[me].key = 0;
	t->nexus[me].all_tg_pt = 0;
	t->nexus[me].nua = 0;
	t->changes++;
}

void
target_power_loss(struct target *t)
{
	int i;

	if (!t->aptpl) {
		t->holder = NOBODY;
		t->type = 0;
		t->crkey = 0;
		t->nreg = 0;
		t->generation = 0;
		for (i = 0; i < t->n; i++)
			t->nexus[i].key = 0;
		t->changes++;
	}
	for (i = 0; i < t->n; i++)
		target_attention(t, i, 0x2900);
}
