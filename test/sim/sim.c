/* See LICENSE file for copyright and license details. */
/*
 * A simulator for mpath.c, which it links as it is, with proto.c and util.c.
 *
 *	sim [-ckvw] [-n N] [-s SEED]
 *	sim -f SEED
 *
 * A schedule is what one seed decides: the kind of target, the paths, what
 * goes wrong how often, which other hosts there are, and the commands of one
 * guest, which go through mpath_run(). After each command invariant.c looks
 * whether all is as it must be. -s runs one schedule, or with -n N of them
 * from that seed on; -v shows each step, -c how often what happened, and
 * with -k it goes on with the next seed when something is not as it must be.
 * prhelper's messages are part of what -v shows; without it they are left out
 * but with -w, which also leaves standard error to the sanitizers.
 * Exit status: 1 if something was not.
 *
 *	target.c	one logical unit by SPC-4; how LIO and SPDK differ
 *	fabric.c	paths, faults, time: the other side of the seam
 *	invariant.c	what must always be true: look there first
 *	sim.c		schedules, guest, other hosts, events
 *
 * -f prints a schedule for a comparison with the real target of Linux, with
 * what the simulated one answered. It is for a map "mp" of four paths p1 to
 * p4 in one path group and two more nexuses o1 and o2 of the same logical
 * unit, which are new and were made in this order, from the first initiator
 * on, as path() of test/vm/lib.sh does it. One line for each step:
 *
 *	mp CDB[:LIST] => ANSWER	a command of the guest, through prhelper
 *	pN CDB => ANSWER	an IN to that path alone, not through the map
 *	oN CDB[:LIST] => ANSWER	a command of another host
 *	down pN			device/state of the path gets "offline"
 *	up pN			... "running", which swallows unit attentions
 *
 * in which CDB, LIST and ANSWER are as prc takes and prints them. The whole
 * line must be the same on both sides, PRGENERATION too: the same mpath.c
 * sends the same probes. To down and up there is no answer.
 */
#include <sys/types.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../prhelper.h"
#include "sim.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
	WRONG_KEY = 0xbad,
	GUEST_KEY = 0xa1, /* and the next ones */
	OTHER_KEY = 0xb1, /* of the first other nexus, and so on */
	KEYS = 3,
	FAITHFUL_PATHS = 4,
	FAITHFUL_OTHERS = 2,
};

enum { IN_ROW = REPLACE_LOST + 1, CLEANUP_ROW, ROWS };
enum { COL_GOOD, COL_CONFLICT, COL_CHECK, COL_BUSY, COLS };

static uint64_t state, seed;
static unsigned long counts[ROWS][COLS];
static FILE *err;
static jmp_buf give_up;
static int keep, compare, failed, warnings;
int noting;

/* What this schedule is like, in 1,000. */
static struct {
	int down, up, host, same_key, wrong, restart;
	int steps;
	uint8_t flags; /* that the guest likes */
} s;

/* splitmix64: each seed is another sequence. */
static uint64_t
next(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

uint32_t
draw(uint32_t n)
{
	return n ? (uint32_t)((next() >> 32) * n >> 32) : 0;
}

int
chance(int n)
{
	return draw(1000) < (uint32_t)n;
}

/* The trace */

void
note(const char *fmt, ...)
{
	va_list ap;

	if (!noting)
		return;
	printf("%7lld.%03lld ", (long long)w.clock / 1000,
	    (long long)w.clock % 1000);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void
violated(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(err, "seed %llu: not so: ", (unsigned long long)seed);
	va_start(ap, fmt);
	vfprintf(err, fmt, ap);
	va_end(ap);
	fprintf(err, "\nsee it with: sim -v -s %llu\n",
	    (unsigned long long)seed);
	if (!keep)
		exit(1);
	failed = 1;
	longjmp(give_up, 1);
}

const char *
words(const struct request *rq)
{
	static char buf[160];

	if (!noting)
		return "";
	if (rq->cdb[0] == PR_OUT && rq->len >= PARAMS_LEN)
		snprintf(buf, sizeof(buf),
		    "%s type %d key %llx, %llx flags %02x len %u",
		    proto_name(rq->cdb), rq->cdb[2],
		    (unsigned long long)get64(rq->data),
		    (unsigned long long)get64(rq->data + 8), rq->data[20],
		    rq->len);
	else
		snprintf(buf, sizeof(buf), "%s (%d) len %u",
		    proto_name(rq->cdb), rq->cdb[1] & ACTION_MASK, rq->len);
	return buf;
}

const char *
answer(const struct reply *rp)
{
	static char buf[40];
	uint32_t sense = proto_sense_of(rp->sense);

	if (rp->status == CHECK_CONDITION)
		snprintf(buf, sizeof(buf), "CHECK %xh/%02xh/%02xh", sense >> 16,
		    sense >> 8 & 0xff, sense & 0xff);
	else
		snprintf(buf, sizeof(buf), "%s",
		    rp->status == GOOD ? "GOOD" :
		    rp->status == BUSY ? "BUSY" :
		    rp->status == RESERVATION_CONFLICT ?
					 "CONFLICT" :
					 "TASK SET FULL");
	return buf;
}

/* The logical unit in one line: keys by path, then of the others. */
static void
show(void)
{
	static const char *const states[] = { "", "(off)", "(blocked)" };
	char line[NEXUS_MAX * 40], *p = line;
	int i;

	if (!noting)
		return;
	for (i = 0; i < w.lun.n; i++)
		p += sprintf(p, " %c%d%s=%llx", i < w.paths ? 'p' : 'o',
		    i < w.paths ? i + 1 : i + 1 - w.paths,
		    i < w.paths ? states[w.road[i].state] : "",
		    (unsigned long long)w.lun.nexus[i].key);
	if (w.lun.holder != NOBODY)
		p += sprintf(p, "; type %d, holder %c%d", w.lun.type,
		    w.lun.holder < w.paths ? 'p' : 'o',
		    w.lun.holder < w.paths ? w.lun.holder + 1 :
					     w.lun.holder + 1 - w.paths);
	note("  =%s; remembered key %llx", line,
	    (unsigned long long)w.state.key);
}

/* Commands */

static void
make_in(struct request *rq, int action, uint32_t len)
{
	memset(rq->cdb, 0, CDB_LEN);
	rq->cdb[0] = PR_IN;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[7] = (uint8_t)(len >> 8);
	rq->cdb[8] = (uint8_t)len;
	rq->len = len;
}

static void
make_out(struct request *rq, int action, int type, uint64_t key, uint64_t sa,
    uint8_t flags)
{
	memset(rq->cdb, 0, CDB_LEN);
	memset(rq->data, 0, PARAMS_LEN);
	rq->cdb[0] = PR_OUT;
	rq->cdb[1] = (uint8_t)action;
	rq->cdb[2] = (uint8_t)type;
	rq->len = rq->cdb[8] = PARAMS_LEN;
	put64(rq->data, key);
	put64(rq->data + 8, sa);
	rq->data[20] = flags;
}

/* How the parameter list of an OUT can be wrong. */
static void
spoil(struct request *rq)
{
	static const uint32_t lens[] = { 0, 8, 16, 23, 25, 28, 52, DATA_MAX };

	if (chance(400)) {
		rq->len = lens[draw(LEN(lens))];
		put32(rq->cdb + 5, rq->len);
		if (rq->len > PARAMS_LEN)
			memset(rq->data + PARAMS_LEN, 0, rq->len - PARAMS_LEN);
	} else if (chance(500)) {
		rq->data[20] |= chance(500) ? FLAG_SPEC_I_PT : FLAG_ALL_TG_PT;
	} else {
		rq->cdb[1] = (uint8_t)(REGISTER_AND_MOVE + draw(25));
	}
}

static uint64_t
guest_key(void)
{
	return GUEST_KEY + draw(KEYS);
}

static uint8_t
some_type(void)
{
	static const uint8_t types[] = { 1, 3, 5, 6, 7, 8, 5, 5, 7 };

	return types[draw(LEN(types))];
}

/* What the guest has: the key of most of its paths, which it may not know. */
static uint64_t
had_key(void)
{
	int i, best = 0, n[KEYS] = { 0 };
	uint64_t key;

	for (i = 0; i < w.paths; i++) {
		key = w.lun.nexus[i].key - GUEST_KEY;
		if (key < KEYS && ++n[key] > n[best])
			best = (int)key;
	}
	return n[best] ? (uint64_t)(GUEST_KEY + best) : 0;
}

/* The key of one of the other nodes, if any has one. */
static uint64_t
victim(void)
{
	int others = w.lun.n - w.paths;

	if (!others || chance(100))
		return WRONG_KEY;
	return w.lun.nexus[w.paths + (int)draw((uint32_t)others)].key;
}

static void
draw_in(struct request *rq)
{
	static const uint16_t lens[] = { DATA_MAX, 255, 8, 24, 40, 0, 4, 21,
		100 };
	int action = chance(950) ? (int)draw(4) : 4 + (int)draw(28);

	make_in(rq, action, chance(600) ? DATA_MAX : lens[draw(LEN(lens))]);
}

/* An OUT of somebody who has a key, or none. */
static void
draw_out(struct request *rq, uint64_t key, uint64_t new)
{
	uint8_t flags = s.flags;
	int n = (int)draw(100);
	int type = w.lun.type && chance(800) ? w.lun.type : some_type();

	if (!key && n < 85) {
		make_out(rq, n < 55 ? REGISTER : REGISTER_AND_IGNORE, 0, 0,
		    new, flags);
		return;
	}
	if (n < 8)
		make_out(rq, REGISTER, 0, key, new, flags);
	else if (n < 14)
		make_out(rq, REGISTER_AND_IGNORE, 0, 0, new, flags);
	else if (n < 22)
		make_out(rq, chance(600) ? REGISTER : REGISTER_AND_IGNORE, 0,
		    key, 0, flags);
	else if (n < 46)
		make_out(rq, RESERVE, type, key, 0, 0);
	else if (n < 66)
		make_out(rq, RELEASE, type, key, 0, 0);
	else if (n < 71)
		make_out(rq, CLEAR, 0, key, 0, 0);
	else
		make_out(rq, chance(700) ? PREEMPT : PREEMPT_AND_ABORT, type,
		    key, chance(750) ? victim() : chance(600) ? key : 0, 0);
}

static void
draw_guest(struct request *rq)
{
	uint64_t key = had_key();

	if (chance(200)) {
		draw_in(rq);
		return;
	}
	if (chance(20)) {
		memset(rq->cdb, 0, CDB_LEN);
		rq->cdb[0] = PR_CLEANUP;
		rq->len = 0;
		return;
	}
	if (chance(s.wrong))
		key = chance(500) ? WRONG_KEY : guest_key();
	draw_out(rq, key, guest_key());
	if (chance(s.wrong))
		rq->cdb[2] = (uint8_t)draw(32);
	if (chance(s.wrong / 2))
		spoil(rq);
}

/* What others do: events between, and if a schedule wants it in, commands */

void
other_host(void)
{
	static uint8_t data[DATA_MAX];
	int others = w.lun.n - w.paths;
	struct request rq = { .fd = -1, .data = data };
	struct reply rp;
	struct nexus *n;
	int i;

	if (!others)
		return;
	i = (int)draw((uint32_t)others);
	n = &w.lun.nexus[w.paths + i];
	draw_out(&rq, n->key,
	    chance(s.same_key) ? GUEST_KEY : (uint64_t)(OTHER_KEY + i));
	if ((rq.cdb[1] == PREEMPT || rq.cdb[1] == PREEMPT_AND_ABORT) &&
	    chance(600))
		put64(rq.data + 8, had_key());
	n->nua = 0;
	before();
	target_run(&w.lun, w.paths + i, &rq, &rp);
	note("o%d: %s: %s", i + 1, words(&rq), answer(&rp));
	after_other();
}

static void
path_down(void)
{
	struct road *r = &w.road[draw((uint32_t)w.paths)];

	if (!chance(s.down))
		return;
	r->state = chance(700) ? OFFLINE : BLOCKED;
	r->failed = (uint8_t)chance(500);
	r->unlisted = r->state == OFFLINE && chance(200);
}

static void
path_up(void)
{
	int i;

	for (i = 0; i < w.paths; i++) {
		if (w.road[i].state == RUNNING || !chance(s.up))
			continue;
		w.road[i].state = RUNNING;
		w.road[i].failed = (uint8_t)chance(200);
		w.road[i].unlisted = 0;
	}
}

static void
host_acts(void)
{
	while (chance(s.host))
		other_host();
}

/* prhelper is started anew and remembers nothing. */
static void
restart(void)
{
	if (chance(s.restart))
		memset(&w.state, 0, sizeof(w.state));
}

static void
time_passes(void)
{
	fabric_pass(w.clock + draw(chance(900) ? 3000 : 120000));
}

/* Between two commands of the guest each of these has its chance. */
static void (*const events[])(void) = {
	time_passes,
	path_down,
	path_up,
	host_acts,
	restart,
};

/* The guest */

static int
row_of(const struct request *rq)
{
	int action = rq->cdb[1] & ACTION_MASK;

	return rq->cdb[0] == PR_IN    ? IN_ROW :
	    rq->cdb[0] == PR_CLEANUP  ? CLEANUP_ROW :
	    action < REPLACE_LOST     ? action :
					REPLACE_LOST;
}

static void
run_guest(const struct request *rq, struct reply *rp)
{
	note("guest: %s", words(rq));
	memset(rp, 0xdd, sizeof(*rp));
	guest_begins(rq);
	mpath_run(rq, rp);
	note("guest: %s", answer(rp));
	show();
	if (!compare)
		guest_ends(rq, rp);
	counts[row_of(rq)][rp->status == GOOD ? COL_GOOD :
		rp->status == RESERVATION_CONFLICT ? COL_CONFLICT :
		rp->status == CHECK_CONDITION	   ? COL_CHECK :
						     COL_BUSY]++;
}

/* Schedules */

/* A fault is as often as this in a schedule that has it. */
static void
faults(void)
{
	int i;

	for (i = 0; i < F_COMMAND; i++)
		w.rate[i] = chance(350) ? 2 + (int)draw(chance(800) ? 30 : 70)
					: 0;
	w.rate[F_MAP] = chance(100) ? 50 : 0;
	w.rate[F_STATE] = chance(50) ? 50 : 0;
}

static void
begin(void)
{
	uint32_t n = draw(100);
	int i, paths;

	paths = 1 + (int)draw(n < 60 ? 4 : n < 98 ? 8 : PATHS_MAX);
	fabric_reset((enum kind)draw(KINDS), paths,
	    (int)draw(FOREIGN_MAX / 2));
	w.lun.full_status = w.lun.kind != STRICT || chance(500);
	w.queues = chance(500);
	for (i = 0; i < w.lun.n; i++)
		w.lun.nexus[i].initiator =
		    (uint8_t)(1 + (i < paths ? i % 2 : i));
	for (i = 0; i < paths; i++) {
		w.road[i].group = (uint8_t)(i % 2 && n % 3 == 0);
		w.road[i].standby = w.road[i].group && n % 2;
	}
	memset(&s, 0, sizeof(s));
	s.steps = 5 + (int)draw(26);
	s.flags = chance(300) ? FLAG_APTPL : 0;
	s.wrong = chance(500) ? 150 : 20;
	s.host = chance(600) ? 300 : 0;
	s.same_key = chance(100) ? 500 : 0;
	n = draw(100);
	if (n >= 35) {
		s.down = chance(800) ? 300 : 0;
		s.up = 300;
	}
	if (n >= 60 && n < 70) {
		w.rate[F_SLOW] = 100;
		w.rate[F_RESET] = w.rate[F_ATTENTION] = 30;
	} else if (n >= 70) {
		faults();
	}
}

static void
schedule(void)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .fd = 3, .data = data };
	struct reply rp;
	size_t i;
	int step;

	state = seed;
	begin();
	note("%s, %d paths, %d other nexuses", kind_names[w.lun.kind], w.paths,
	    w.lun.n - w.paths);
	for (step = 0; step < s.steps; step++) {
		for (i = 0; i < LEN(events); i++)
			events[i]();
		draw_guest(&rq);
		run_guest(&rq, &rp);
	}
}

/* The comparison */

static void
print_hex(const uint8_t *p, uint32_t len)
{
	while (len-- > 0)
		printf("%02x", *p++);
}

static void
print_step(const char *who, int number, const struct request *rq)
{
	printf(number ? "%s%d " : "%s ", who, number);
	print_hex(rq->cdb, rq->cdb[0] == PR_CLEANUP ? 1 : PR_CDB_LEN);
	if (rq->cdb[0] == PR_OUT && rq->len) {
		putchar(':');
		print_hex(rq->data, rq->len);
	}
	printf(" => ");
}

static void
print_answer(const struct request *rq, const struct reply *rp)
{
	uint32_t sense = proto_sense_of(rp->sense);

	printf("%02x ", rp->status);
	if (rp->sense[0])
		printf("%x/%02x/%02x ", sense >> 16, sense >> 8 & 0xff,
		    sense & 0xff);
	else
		printf("- ");
	if (rp->len)
		print_hex(rq->data, rp->len);
	else
		putchar('-');
	putchar('\n');
}

/* A path goes or returns; at least one stays. */
static void
print_turn(void)
{
	int i, n = 0, path = (int)draw(FAITHFUL_PATHS);
	struct road *r = &w.road[path];

	for (i = 0; i < FAITHFUL_PATHS; i++)
		n += w.road[i].state == RUNNING;
	if (r->state == RUNNING && n == 1)
		return;
	printf("%s p%d\n", r->state == RUNNING ? "down" : "up", path + 1);
	r->state = r->state == RUNNING ? OFFLINE : RUNNING;
	if (r->state == RUNNING)
		w.lun.nexus[path].nua = 0;
}

/* To one nexus, not through the map. */
static void
print_raw(struct request *rq)
{
	struct reply rp;
	int nexus = (int)draw((uint32_t)w.lun.n);
	int other = nexus - FAITHFUL_PATHS;

	/* The node of a disk that is offline cannot be opened. */
	if (other < 0 && w.road[nexus].state == OFFLINE)
		return;
	if (other < 0 || chance(300))
		draw_in(rq);
	else
		draw_out(rq, w.lun.nexus[nexus].key,
		    (uint64_t)(OTHER_KEY + other));
	if (rq->cdb[0] == PR_OUT && rq->cdb[1] == PREEMPT_AND_ABORT)
		rq->cdb[1] = PREEMPT;
	print_step(other < 0 ? "p" : "o", other < 0 ? nexus + 1 : other + 1,
	    rq);
	memset(rq->data, 0, rq->cdb[0] == PR_IN ? rq->len : 0);
	before();
	target_run(&w.lun, nexus, rq, &rp);
	after_other();
	print_answer(rq, &rp);
}

static void
faithful(void)
{
	static uint8_t data[DATA_MAX];
	struct request rq = { .fd = 3, .data = data };
	struct reply rp;
	int i, n;

	state = seed;
	fabric_reset(LIO, FAITHFUL_PATHS, FAITHFUL_OTHERS);
	for (i = 0; i < w.lun.n; i++)
		w.lun.nexus[i].initiator = (uint8_t)(i + 1);
	s.wrong = 100;
	s.flags = chance(300) ? FLAG_APTPL : 0;
	for (i = 40 + (int)draw(41); i > 0; i--) {
		n = (int)draw(100);
		if (n < 10) {
			print_turn();
		} else if (n < 40) {
			print_raw(&rq);
		} else {
			draw_guest(&rq);
			if (rq.cdb[0] == PR_OUT &&
			    rq.cdb[1] == PREEMPT_AND_ABORT)
				rq.cdb[1] = PREEMPT;
			print_step("mp", 0, &rq);
			run_guest(&rq, &rp);
			print_answer(&rq, &rp);
		}
	}
}

static void
coverage(void)
{
	static const char *const others[] = { "REPLACE LOST, unknown", "any IN",
		"CLEANUP" };
	uint8_t cdb[CDB_LEN] = { PR_OUT };
	int i;

	fprintf(err, "%-32s %9s %9s %9s %9s\n", "guest", "GOOD", "CONFLICT",
	    "CHECK", "BUSY");
	for (i = 0; i < ROWS; i++) {
		cdb[1] = (uint8_t)i;
		fprintf(err, "%-32s %9lu %9lu %9lu %9lu\n",
		    i < REPLACE_LOST ? proto_name(cdb) :
				       others[i - REPLACE_LOST],
		    counts[i][COL_GOOD], counts[i][COL_CONFLICT],
		    counts[i][COL_CHECK], counts[i][COL_BUSY]);
	}
	for (i = 0; i < FAULTS; i++)
		fprintf(err, "%-32s %9lu\n", fault_names[i], fault_counts[i]);
}

static void
usage(void)
{
	fprintf(stderr, "usage: sim [-ckvw] [-n N] [-s SEED] | sim -f SEED\n");
	exit(2);
}

/* Messages of prhelper are for the trace. */
static void
set_up(void)
{
	if (!(err = fdopen(dup(2), "w")))
		exit(2);
	setvbuf(stdout, NULL, noting ? _IOLBF : _IOFBF, BUFSIZ);
	if (noting)
		dup2(1, 2);
	else if (!warnings && !freopen("/dev/null", "w", stderr))
		exit(2);
	memset(tracing, noting, sizeof(tracing));
}

int
main(int argc, char *argv[])
{
	static unsigned long n = 1, i; /* outlive longjmp() */
	static int counted, many;
	int opt;

	seed = 1;
	while ((opt = getopt(argc, argv, "cf:kn:s:vw")) != -1) {
		switch (opt) {
		case 'c': counted = 1; break;
		case 'k': keep = 1; break;
		case 'f': compare = 1; /* fall through */
		case 's': seed = strtoull(optarg, NULL, 10); break;
		case 'n':
			n = strtoul(optarg, NULL, 10);
			many = 1;
			break;
		case 'v': noting = 1; break;
		case 'w': warnings = 1; break;
		default: usage();
		}
	}
	if (optind < argc)
		usage();
	set_up();
	if (compare)
		faithful();
	for (i = 0; !compare && i < n; i++, seed++)
		if (!setjmp(give_up))
			schedule();
	if (counted)
		coverage();
	if (many)
		printf("%lu schedules\n", n);
	return fflush(stdout) || failed;
}
